"""ToMe, token merging: the most similar tokens become one."""

from sparsight.methods.tome.config import ToMe

__all__ = ["ToMe"]
