"""A linear probe: how much of the truth one linear layer reads off frozen features.

    minimise  - sum over rows of t . log softmax(W z + b) / rows + RIDGE ||W||^2,  z = (x - mean) / std

The standardisation is what a batch norm before the layer comes to when the features do not change.  For
frozen features the loss is convex: L-BFGS finds its minimum from zero, without a learning rate, an order
of the pictures or a seed to tune.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.stages.progress import track

ITERATIONS, RIDGE = 200, 1e-4
ROUNDING = 1e-6  # of float32, relative
ROWS_AT_ONCE = 65536  # whose logits are held at the same time
RECIPE = {
    "probe": "one linear layer on standardised features, cross-entropy, L-BFGS from zero",
    "iterations": ITERATIONS,
    "ridge": RIDGE,
}


class Probe(NamedTuple):
    """Logits = features @ weight + bias."""

    weight: Tensor  # (c, k)
    bias: Tensor  # (k,)

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (..., k) of features (..., c)."""
        return features @ self.weight + self.bias


def fit(features: Tensor, targets: Tensor, classes: int, what: str = "Fitting the probe") -> Probe:
    """The probe for features (n, c) and targets: class numbers (n,), or shares of each class (n, k)."""
    mean, spread = features.mean(0), features.std(0, correction=0)
    # A channel that only rounding moves would be blown up to the size of the others.
    std = spread.masked_fill(spread <= ROUNDING * mean.abs(), 1)
    weight = features.new_zeros(features.shape[1], classes, requires_grad=True)
    bias = features.new_zeros(classes, requires_grad=True)
    total = targets.sum() if targets.ndim == 2 else len(targets)
    chunks = list(zip(features.split(ROWS_AT_ONCE), targets.split(ROWS_AT_ONCE), strict=True))
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, max_eval=2 * ITERATIONS, line_search_fn="strong_wolfe"
    )
    steps = track(range(2 * ITERATIONS), what, 2 * ITERATIONS)

    def loss() -> Tensor:
        next(steps, None)
        solver.zero_grad()
        value = RIDGE * weight.square().sum()
        value.backward()
        for x, t in chunks:
            part = F.cross_entropy((x - mean) / std @ weight + bias, t, reduction="sum") / total
            part.backward()
            value = value.detach() + part.detach()
        return value

    with torch.enable_grad():
        solver.step(loss)
    list(steps)  # it converged in fewer
    scaled = weight.detach() / std[:, None]
    return Probe(scaled, bias.detach() - mean @ scaled)
