"""Pruning by the attention of the class token: the top tokens go on."""

from sparsight.methods.cls_topk.config import ClsTopK

__all__ = ["ClsTopK"]
