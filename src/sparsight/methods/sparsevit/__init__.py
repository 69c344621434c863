"""SparseViT: windows of small activations skip whole blocks."""

from sparsight.methods.sparsevit.config import SparseViT

__all__ = ["SparseViT"]
