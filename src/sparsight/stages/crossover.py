"""From how many tokens on does this plan pay, on this machine?  Measured, not guessed."""

import copy
from collections.abc import Iterable

import torch
from torch import nn

from sparsight.attach import apply, family_in
from sparsight.fit import places, resolve
from sparsight.modes import evaluating
from sparsight.plan import Plan
from sparsight.stages import timing
from sparsight.stages.measure import fused
from sparsight.stages.observe import outputs_of
from sparsight.stages.pictures import noise

GRID_SIDES = (8, 12, 16, 20, 24, 28, 32, 40, 48)  # patches a side: 64 to 2304 tokens of a plain ViT
REPEATS = 9
WORTH = 1.02  # less than this is noise: two runs of the same model differ by as much


def crossover(model: nn.Module, plan: Plan) -> tuple[int | None, list[dict[str, float]]]:
    """The smallest token count from which `plan` is faster than dense, and every measurement.

    Goes up in size until two sizes in a row are faster.  None if the model takes only one size of
    picture, or if sparse is not faster at any size tried.
    """
    family = family_in(model)
    like = next(model.parameters())
    height, width = family.patch_px(model)
    rows: list[dict[str, float]] = []
    with evaluating(model):
        always = plan.at_any_size()
        sparse = apply(copy.deepcopy(model), always)
        layers = {place.layer for place in places(resolve(always, model, family), model, family)}
        with fused(model, sparse):
            for side in GRID_SIDES:
                picture = noise(model, (side * height, side * width))
                try:
                    tokens = _tokens(model, picture, layers)
                except (AssertionError, RuntimeError, ValueError):
                    _check_runs(model, plan, picture)  # or it is not the size that does not suit
                    return None, rows
                arms = {
                    "dense": lambda p=picture: family.features(model, p),
                    "sparse": lambda p=picture: family.features(sparse, p),
                }
                times = timing.interleave(arms, REPEATS, like.device, f"Crossover {side}x{side}")
                dense, fast = (timing.summary(times[arm])["latency_ms"] for arm in arms)
                rows.append({"tokens": tokens, "dense_ms": dense, "sparse_ms": fast})
                paying = [row["dense_ms"] >= WORTH * row["sparse_ms"] for row in rows[-2:]]
                if len(paying) == 2 and all(paying):
                    return int(rows[-2]["tokens"]), rows
    return None, rows


def _check_runs(model: nn.Module, plan: Plan, like: torch.Tensor) -> None:
    """Raise what the model raises at the size it is for: some take that one alone."""
    size = plan.resolution or getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None:
        with torch.no_grad():
            family_in(model).features(model, like.new_zeros(*like.shape[:2], *size))


def _tokens(model: nn.Module, picture: torch.Tensor, layers: Iterable[int]) -> int:
    """How many tokens the sparse layers have of this picture: the fewest, where they differ."""
    with torch.no_grad(), outputs_of(model, layers) as outputs:
        family_in(model).features(model, picture)
    return min(output.flatten(1, -2).shape[1] for output in outputs.values())
