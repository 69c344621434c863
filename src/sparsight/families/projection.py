"""Which weight is the output projection of an attention module: the one that reads its heads' results.

Told by what happens to values that can be told apart, not by names: with a norm or a gate between, or
more than one linear layer that reads them (LoRA), there is no such weight.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparsight.families.parts import Host, Parts

VALUES = 251  # different ones, whole numbers that any floating-point dtype has


def told_apart(like: Tensor) -> Tensor:
    """Of the shape of `like`, values that no norm, gate or other order leaves as they are."""
    count = torch.arange(like.numel(), device=like.device)
    return (count * count % VALUES + 1).to(like.dtype).view(like.shape)


def holds(x: Tensor, rows: Tensor) -> bool:
    """Whether `x` has just the values of `rows`, in their order; on the meta device there are none."""
    return not x.is_meta and x.shape[-1] == rows.shape[-1] and torch.equal(x.flatten(), rows.flatten())


class _Readers(TorchFunctionMode):
    """Notes the weights of linear layers that are given `rows`."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows, self.weights = rows, list[Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Everything runs as it is."""
        if func is F.linear and len(args) > 1 and holds(args[0], self.rows):
            self.weights.append(args[1])
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def projection_of(parts: Parts, attention: Host, heads: int) -> str:
    """The name of the weight (c, heads * d) in the attention module of a family; "" if there is none."""
    layers = [part for part in attention.modules() if isinstance(part, nn.Linear)]
    for width in {layer.in_features for layer in layers if layer.in_features % heads == 0}:
        like = layers[0].weight
        out = told_apart(like.new_empty(1, 2, heads, width // heads))
        with _Readers(out.flatten(2)) as readers:
            try:
                parts.merge(attention, out, like.new_zeros(1, 2, layers[0].in_features))
            except RuntimeError:  # of another width
                continue
        return name_of(attention, readers.weights)
    return ""


def name_of(attention: Host, weights: list[Tensor]) -> str:
    """What the only one of `weights` is called in the attention module; "" if it is not the only one."""
    if len(weights) != 1:
        return ""
    return next((name for name, own in attention.named_parameters() if own is weights[0]), "")
