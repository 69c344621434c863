"""Bypass: in some layers only tokens of the highest score take part, the others bypass the layer."""

from sparsight.methods.bypass.config import Bypass

__all__ = ["Bypass"]
