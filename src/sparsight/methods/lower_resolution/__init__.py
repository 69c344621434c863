"""The dense model at a lower resolution: what a user does today."""

from sparsight.methods.lower_resolution.config import LowerResolution

__all__ = ["LowerResolution"]
