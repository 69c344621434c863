"""SVE, Sparse Vision Encoder: the top tokens see all, the others see the top tokens."""

from sparsight.methods.sve.config import SVE

__all__ = ["SVE"]
