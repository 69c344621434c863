"""Is this the model a plan was made for?  A few facts and weights tell."""

from typing import Any

import torch
from torch import nn

from sparsight.errors import PlanError
from sparsight.families import Family
from sparsight.plan import ModelIdentity

SAMPLES = 8  # weights of each block that identify it
SAMPLE_TOLERANCE = 0.02  # bfloat16 keeps 8 bits, an error of 0.4 %; other weights differ by far more


def identity(model: nn.Module, family: Family) -> ModelIdentity:
    """What identifies `model` (without a plan applied)."""
    blocks = family.blocks(model)
    return ModelIdentity(
        family=family.name,
        kind=family.kind_of(model),
        depth=len(blocks),
        dim=_one_or_each([family.dim(block) for block in blocks]),
        heads=_one_or_each([family.heads(block) for block in blocks]),
        prefix_tokens=family.prefix_tokens(model),
        patch_px=family.patch_px(model),
        weight_samples=tuple(_weight_sample(n, block) for n, block in enumerate(blocks)),
    )


def _one_or_each(values: list[int]) -> int | tuple[int, ...]:
    return values[0] if len(set(values)) == 1 else tuple(values)


def _largest_weight(block: Any) -> tuple[str, torch.Tensor]:
    """By its name in the block."""
    return max(block.named_parameters(), key=lambda named: named[1].numel())


def _weight_sample(layer: int, block: Any) -> tuple[float, ...]:
    """A few entries of the largest weight of a block; PlanError if it holds none that can be read."""
    largest = _largest_weight(block)[1].detach()
    plain = type(largest) in (torch.Tensor, nn.Parameter)
    if not (plain and largest.is_floating_point()):
        raise PlanError(
            f"the weights of block {layer} are quantised or sharded ({type(largest).__name__} of "
            f"{str(largest.dtype).removeprefix('torch.')}): apply the plan to the float model first, "
            "then quantise or shard"
        )
    flat = largest.flatten()
    places = torch.linspace(0, len(flat) - 1, SAMPLES, device=flat.device).long()
    return tuple(flat[places].float().tolist())


def check_identity(planned: ModelIdentity, model: nn.Module, family: Family) -> None:
    """Raise PlanError with the first thing in which `model` differs from the one a plan was made for."""
    actual = identity(model, family)
    for name in type(planned).model_fields:
        if name == "weight_samples":
            continue
        if getattr(planned, name) != getattr(actual, name):
            raise PlanError(
                f"the plan was made for another model: {name.replace('_', ' ')} "
                f"{getattr(planned, name)!r} there, {getattr(actual, name)!r} here"
            )
    if len(planned.weight_samples) != planned.depth:
        raise PlanError(
            f"the plan is damaged: it has samples of {len(planned.weight_samples)} blocks of "
            f"{planned.depth}"
        )
    for layer, (one, two) in enumerate(zip(planned.weight_samples, actual.weight_samples, strict=True)):
        scale = max(map(abs, one), default=0.0)
        if len(one) != len(two) or any(
            not abs(a - b) <= SAMPLE_TOLERANCE * scale for a, b in zip(one, two, strict=True)
        ):
            block = family.blocks(model)[layer]
            where = next(name for name, module in model.named_modules() if module is block)
            raise PlanError(
                f"the plan was made for other weights: block {layer} of this model differs, at "
                f"{where}.{_largest_weight(block)[0]} (another checkpoint, or fine-tuned since)"
            )
