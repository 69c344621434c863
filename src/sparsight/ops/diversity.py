"""Tokens that have little in common: greedy max-sum selection, without a matrix of all pairs.

A[v] is the sum of the cosines of v with all chosen so far, and the next is the one with the least.  With
unit vectors that is x_v . (sum of the chosen x), so one product of (n x d) a step does.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def spread(
    x: Float[Tensor, "b n c"], first: Int[Tensor, " b"], count: int, each: int
) -> Int[Tensor, "b k"]:
    """`count` rows of each picture in the order in which they are chosen, `each` in a step."""
    if torch.compiler.is_compiling():
        return _spread(x, first, count, each)
    return _greedy(x, first, count, each)


@torch.library.custom_op("sparsight::spread", mutates_args=())
def _spread(x: Tensor, first: Tensor, count: int, each: int) -> Tensor:
    """One opaque step for a compiler, which would unroll the loop."""
    return _greedy(x, first, count, each)


@_spread.register_fake
def _(x: Tensor, first: Tensor, count: int, each: int) -> Tensor:
    return first.new_empty(first.shape[0], count)


@torch.no_grad()  # a selection has none
def _greedy(x: Tensor, first: Tensor, count: int, each: int) -> Int[Tensor, "b k"]:
    with torch.autocast(x.device.type, enabled=False):  # sums of cosines want all digits
        return _picked(F.normalize(x.float(), dim=2), first, count, each)


def _picked(
    unit: Float[Tensor, "b n c"], first: Int[Tensor, " b"], count: int, each: int
) -> Int[Tensor, "b k"]:
    common = torch.zeros(unit.shape[:2], dtype=torch.float32, device=unit.device)
    picked, chosen = first[:, None], [first[:, None]]
    for begin in range(1, count, each):
        own = unit.gather(1, picked[:, :, None].expand(-1, -1, unit.shape[2])).sum(1, keepdim=True)
        common += (unit @ own.transpose(1, 2))[:, :, 0]
        common.scatter_(1, picked, torch.inf)
        picked = common.topk(min(each, count - begin), dim=1, largest=False).indices
        chosen.append(picked)
    return torch.cat(chosen, 1)
