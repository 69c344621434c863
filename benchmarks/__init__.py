"""Commands that measure: see README.md beside this file."""
