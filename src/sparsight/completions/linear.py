"""The linear map: what stands in the place of what is skipped, fitted in closed form without training.

    y = [n, 1] W,   W = argmin sum over skipped tokens of || y - [n, 1] W ||^2 + ridge ||W||^2

n (c,) is the token as the skipped part reads it, normalised; W (c + 1, c).  A^T A and A^T Y are summed
in float64 over pictures, so that no picture is held for it; c^2 multiplications a token at run time, a
twelfth of a block's.
"""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsight.errors import PlanError

RIDGE = 1e-4  # of the mean square of what the map reads: enough for columns that are always zero
TINY = 1e-12  # of a mean square: below what float32 resolves
ROWS_PER_UNKNOWN = 2  # fewer tokens than this times the rows of a map would be learned by heart


def normalised(x: Float[Tensor, "... c"]) -> Float[Tensor, "... c"]:
    """Tokens with mean 0 and variance 1 each, without a scale of their own."""
    return torch.nn.functional.layer_norm(x, x.shape[-1:])


def mapped(normal: Float[Tensor, "b n c"], table: Float[Tensor, "e o"]) -> Float[Tensor, "b n o"]:
    """[n, 1] W of every token."""
    rows = torch.addmm(table[-1], normal.flatten(0, 1), table[:-1])
    return rows.view(*normal.shape[:2], table.shape[1])


def log_error(missed: Float[Tensor, "... o"], size: Tensor | float = 1.0) -> Float[Tensor, "..."]:
    """Of what a map misses of each token, relative to `size`, a mean square; finite if it is nothing."""
    return (missed.square().mean(-1) / size).add(TINY).log()


def squared(normal: Float[Tensor, "... c"]) -> Float[Tensor, "... e"]:
    """[n, n^2]: what the prediction of a map's error reads."""
    return torch.cat([normal, normal.square()], -1)


def fit_error(
    normal: Float[Tensor, "b n c"], goal: Float[Tensor, "b n o"], size: Tensor | float = 1.0
) -> "Generator[Regression, Tensor, Float[Tensor, ' e']]":
    """w of [n, n^2, 1] w, the log error that the best map to `goal` leaves; asks all pictures twice."""
    table = yield Regression(normal.flatten(0, 1), goal.flatten(0, 1))
    error = log_error(goal - mapped(normal, table), size)
    return (yield Regression(squared(normal).flatten(0, 1), error.view(-1, 1)))[:, 0]


class Regression:
    """Sums of a ridge regression of y (m, o) on [a, 1], a (m, e): taken in one after the other."""

    def __init__(self, a: Tensor, y: Tensor) -> None:
        a, y = torch.cat([a, a.new_ones(len(a), 1)], 1).double(), y.double()
        self.count, self.gram, self.target = len(a), a.T @ a, a.T @ y
        self.square = y.square().sum()
        self.left = 1.0  # of the square, what the map does not explain; known when it is solved

    def __iadd__(self, other: "Regression") -> "Regression":
        """With the rows of another picture."""
        self.count += other.count
        self.gram += other.gram
        self.target += other.target
        self.square += other.square
        return self

    def solved(self, what: str) -> Float[Tensor, "e o"]:
        """W in float32; PlanError, naming `what` is fitted, if the rows do not determine it."""
        if not (torch.isfinite(self.gram).all() and torch.isfinite(self.target).all()):
            raise PlanError(f"{what} cannot be fitted: NaN or infinity among its tokens")
        if self.count < ROWS_PER_UNKNOWN * len(self.gram):
            raise PlanError(
                f"{what} cannot be fitted to {self.count} skipped tokens, it needs at least "
                f"{ROWS_PER_UNKNOWN * len(self.gram)}: give more or larger pictures, or skip more"
            )
        ridge = (
            RIDGE
            * self.gram.diagonal().mean()
            * torch.eye(len(self.gram), dtype=torch.float64, device=self.gram.device)
        )
        table = torch.linalg.solve(self.gram + ridge, self.target)
        explained = (table * (2 * self.target - self.gram @ table)).sum()
        self.left = (1 - explained / self.square.clamp_min(1e-300)).clamp(0, 1).item()
        return table.float().contiguous()


@dataclass
class Quantile:
    """The value that so many of all values are above; taken in one picture after the other."""

    values: Tensor  # (m,)
    above: float

    def __iadd__(self, other: "Quantile") -> "Quantile":
        """With the values of another picture."""
        self.values = torch.cat([self.values, other.values])
        self.above += other.above
        return self

    def solved(self, what: str) -> Float[Tensor, ""]:
        """As a number; PlanError, naming `what` is fitted, if it is none."""
        below = 1 - self.above / len(self.values)
        found = self.values.float().quantile(min(1.0, max(0.0, below)))
        if not torch.isfinite(found):
            raise PlanError(f"{what} cannot be fitted: NaN or infinity among its tokens")
        return found
