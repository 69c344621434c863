"""Out of Python: a model with its plan as a file for an engine, its manifest and a parity report."""
