"""AS-ViT: thresholds on class attention say how many tokens go on, as many as each picture needs."""

from sparsight.methods.asvit.config import ASViT

__all__ = ["ASViT"]
