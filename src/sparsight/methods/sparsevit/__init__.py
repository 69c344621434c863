"""SparseViT: windows of small activations skip whole blocks of a Swin."""

from sparsight.methods.sparsevit.config import SparseViT

__all__ = ["SparseViT"]
