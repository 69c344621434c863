"""Two arms on the same images: the difference of a metric and how sure it is.

Bootstrap over images: the images are drawn again with replacement, the metric of both arms is computed
on each draw, and the interval is where the middle 95 % of the differences lie.  Both arms have the same
draws, so what makes an image hard for both does not widen the interval.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

RESAMPLES, CONFIDENCE = 1000, 0.95
AT_ONCE = 2_000_000  # drawn images held at once

# How often each image counts, (draws, images), to the metric on each draw, (draws,).
Statistic = Callable[[Tensor], Tensor]


def compare(
    metric: str, dense: Statistic, sparse: Statistic, images: int, seed: int = 0, of: str = ""
) -> dict[str, Any]:
    """One row: both arms, sparse - dense, and its interval (None with fewer than two images)."""
    every = torch.ones(1, images, dtype=torch.float64, device="cpu")
    first, second = dense(every).item(), sparse(every).item()
    low = high = None
    if images > 1:
        differences = torch.cat([sparse(draw) - dense(draw) for draw in draws(images, seed)])
        differences = differences[~differences.isnan()]  # a draw that misses all of a class's images
        if len(differences):
            tail = (1 - CONFIDENCE) / 2
            ends = differences.new_tensor([tail, 1 - tail])
            low, high = torch.quantile(differences, ends).tolist()
    return (
        {"metric": metric}
        | ({"of": of} if of else {})
        | {"dense": first, "sparse": second, "difference": second - first, "low": low, "high": high}
    )


def draws(images: int, seed: int):
    """Yield how often each image was drawn, (some draws, images), until there are RESAMPLES."""
    generator = torch.Generator().manual_seed(seed)
    step = max(1, AT_ONCE // images)
    for start in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - start)
        drawn = torch.randint(images, (count, images), generator=generator, device="cpu")
        ones = torch.ones(count, images, dtype=torch.float64, device="cpu")
        yield torch.zeros_like(ones).scatter_add_(1, drawn, ones)


def mean_of(values: Tensor) -> Statistic:
    """The mean over images of one value (images,) for each."""
    exact = values.double()
    return lambda weights: weights @ exact / weights.sum(1)


def worst_images(
    names: list[str], dense: Tensor, sparse: Tensor, count: int, higher_is_better: bool = True
) -> list[dict[str, Any]]:
    """The images that lose most by the sparse arm, with both arms' value (images,) of the metric."""
    loss = (dense - sparse if higher_is_better else sparse - dense).double()
    order = torch.argsort(loss, descending=True, stable=True)[:count].tolist()
    return [
        {
            "image": names[i], "dense": dense[i].item(), "sparse": sparse[i].item(),
            "difference": (sparse[i] - dense[i]).item(),
        }
        for i in order
    ]  # fmt: skip
