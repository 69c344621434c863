"""Local attention: windows or stripes of the grid attend within themselves, from places alone."""

from sparsight.methods.local_attention.config import LocalAttention

__all__ = ["LocalAttention"]
