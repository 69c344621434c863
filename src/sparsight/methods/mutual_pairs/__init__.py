"""Mutual pairs: tokens that are most like each other merge (MPM-style)."""

from sparsight.methods.mutual_pairs.config import MutualPairs

__all__ = ["MutualPairs"]
