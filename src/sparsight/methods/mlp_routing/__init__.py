"""MLP routing: only tokens that stand out go through the MLP."""

from sparsight.methods.mlp_routing.config import MLPRouting

__all__ = ["MLPRouting"]
