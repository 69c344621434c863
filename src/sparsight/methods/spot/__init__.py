"""SPOT: tokens leave that their embeddings and the attention of earlier layers show to be redundant."""

from sparsight.methods.spot.config import SPOT

__all__ = ["SPOT"]
