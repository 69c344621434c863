"""From a budget of operations to thresholds: what blocks cost, how many tokens may stay, and from where.

    a block with n tokens costs  n W + 2 n^2 d      W = weights of its linear layers, d = its width

W is 4 d^2 + 2 r d^2 in a plain block with an MLP of r d, as in the paper; all blocks are alike.  The
shares that stay in the stages are rho, rho^2, ...: rho is what meets the budget.  A stage's threshold
then is the smallest with which a block costs, in the mean over pictures, no more than rho allows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsight.errors import PlanError
from sparsight.families import Family

STEPS = 40  # of a bisection: to the end of float32


@dataclass(frozen=True)
class Cost:
    """Of one block."""

    weights: int
    width: int

    def __call__(self, tokens: float) -> float:
        """Multiplications for so many tokens."""
        return tokens * self.weights + 2 * tokens * tokens * self.width


def cost_of(block: nn.Module, family: Family) -> Cost:
    """From the block's own weights: matrices, each used once a token."""
    return Cost(sum(p.numel() for p in block.parameters() if p.ndim == 2), family.dim(block))


def share_of(
    cost: Cost, depth: int, stages: Sequence[int], budget: float, tokens: int, prefix: int
) -> float:
    """rho; PlanError if the budget is below what it takes with hardly a token in the late layers."""

    def spent(rho: float) -> float:
        left = (rho ** sum(stage <= n for stage in stages) for n in range(depth))
        return sum(cost(prefix + share * (tokens - prefix)) for share in left)

    whole, low, high = spent(1.0), 0.0, 1.0
    if spent(low) >= budget * whole:
        raise PlanError(
            f"a budget of {budget:g} cannot be met with pictures of {tokens} tokens: the layers before "
            f"{stages[0]} take {spent(low) / whole:.2f} of all: raise it, or name earlier stages"
        )
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) > budget * whole else (middle, high)
    return low


class Threshold:
    """Asks for the threshold on scores, of one picture at first, that meets an allowance."""

    def __init__(self, scores: Float[Tensor, " p"], prefix: int, cost: Cost, allowed: float) -> None:
        self.pictures, self.prefix, self.cost, self.allowed = [scores], prefix, cost, allowed

    def __iadd__(self, other: "Threshold") -> "Threshold":
        """With another picture."""
        self.pictures += other.pictures
        self.allowed += other.allowed
        return self

    def solved(self, what: str) -> Float[Tensor, ""]:
        """As many stay as the sum over pictures allows; PlanError if the scores are no numbers."""
        ranked = torch.cat(self.pictures).float().sort(descending=True).values
        if not torch.isfinite(ranked).all():
            raise PlanError(f"{what} cannot be fitted: NaN or infinity among its tokens")
        low, high = 0, len(ranked) - 1  # the threshold is the score of rank `low`
        while low < high:
            middle = (low + high + 1) // 2
            counts = [int((scores >= ranked[middle]).sum()) for scores in self.pictures]
            if sum(self.cost(self.prefix + max(1, count)) for count in counts) <= self.allowed:
                low = middle
            else:
                high = middle - 1
        return ranked[low]
