"""Is this the model a plan was made for?  A few facts and weights tell."""

from typing import Any

import torch
from torch import nn

from sparsight.errors import PlanError
from sparsight.families import Family
from sparsight.plan import ModelIdentity

SAMPLES = 8  # entries of the largest weight of each block that identify it
EACH = 2  # entries of every tensor, which may have been tuned alone
RESIZED = "pos"  # in names of tensors that are brought to the size of the pictures
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
        tensor_samples={
            f"{n}.{name}": _entries(tensor.detach(), EACH)
            for n, block in enumerate(blocks)
            for name, tensor in block.named_parameters()
            if _is_plain(tensor) and RESIZED not in name
        },
    )


def _one_or_each(values: list[int]) -> int | tuple[int, ...]:
    return values[0] if len(set(values)) == 1 else tuple(values)


def _largest_weight(block: Any) -> tuple[str, torch.Tensor]:
    """By its name in the block."""
    return max(block.named_parameters(), key=lambda named: named[1].numel())


def _weight_sample(layer: int, block: Any) -> tuple[float, ...]:
    """A few entries of the largest weight of a block; PlanError if it holds none that can be read."""
    largest = _largest_weight(block)[1].detach()
    if not _is_plain(largest):
        raise PlanError(
            f"the weights of block {layer} are quantised or sharded ({type(largest).__name__} of "
            f"{str(largest.dtype).removeprefix('torch.')}): apply the plan to the float model first, "
            "then quantise or shard"
        )
    return _entries(largest, SAMPLES)


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, nn.Parameter) and tensor.is_floating_point()


def _entries(tensor: torch.Tensor, count: int) -> tuple[float, ...]:
    """Evenly spread over the tensor, its first and last among them."""
    flat = tensor.flatten()
    places = torch.linspace(0, len(flat) - 1, count, dtype=torch.float32, device=flat.device).long()
    return tuple(flat[places].float().tolist())


def _same(planned: tuple[float, ...], actual: tuple[float, ...]) -> bool:
    """Equal as far as half precision tells."""
    scale = max(map(abs, planned), default=0.0)
    return len(planned) == len(actual) and all(
        abs(a - b) <= SAMPLE_TOLERANCE * scale for a, b in zip(planned, actual, strict=True)
    )


def check_identity(planned: ModelIdentity, model: nn.Module, family: Family) -> None:
    """Raise PlanError with the first thing in which `model` differs from the one a plan was made for."""
    actual = identity(model, family)
    for name in type(planned).model_fields:
        if name in ("weight_samples", "tensor_samples"):
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
    largest = [_largest_weight(block)[0] for block in family.blocks(model)]
    pairs = [
        (f"{n}.{name}", planned.weight_samples[n], actual.weight_samples[n])
        for n, name in enumerate(largest)
    ]
    pairs += [  # a wrapper may have renamed some
        (name, sample, actual.tensor_samples[name])
        for name, sample in planned.tensor_samples.items()
        if name in actual.tensor_samples
    ]
    differing = [name for name, one, two in pairs if not _same(one, two)]
    if differing:
        layer, _, name = min(differing, key=lambda name: int(name.partition(".")[0])).partition(".")
        raise PlanError(
            f"the plan was made for other weights: block {layer} of this model differs, at {name} "
            "(another checkpoint, or fine-tuned since)"
        )
