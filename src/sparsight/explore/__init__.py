"""A local page to try settings on single pictures: what is kept, what it changes, what it saves."""
