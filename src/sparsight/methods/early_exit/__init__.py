"""Early exit of tokens: those that a map can finish leave the network, and the map finishes them."""

from sparsight.methods.early_exit.config import EarlyExit

__all__ = ["EarlyExit"]
