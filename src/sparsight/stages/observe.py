"""Looking into a model while it runs: what each layer's attention reads, and its average map.

Works on a changed model as on an unchanged one, because what a block is given and what it returns is
in the original order either way.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.attach import applied, family_in
from sparsight.errors import NotFiniteError, PlanError
from sparsight.families.calls import attention_inputs
from sparsight.inplace import argument_names
from sparsight.methods import SPOT, ASViT, ClsTopK, EarlyExit
from sparsight.methods.reduced import carried_by
from sparsight.modes import evaluating
from sparsight.ops.statistics import average_attention
from sparsight.plan import Plan


@dataclass(frozen=True)
class LayerView:
    """What one layer's attention sees of a batch."""

    layer: int
    h: Tensor  # (b, n, c), what the attention reads
    q: Tensor  # (b, heads, n, d)
    k: Tensor
    v: Tensor
    m: Tensor  # (b, n), the exact average attention


@contextmanager
def watch(model: nn.Module, layers: Iterable[int], see: Callable[[LayerView], Any]) -> Iterator[None]:
    """While in here, every forward pass of `model` calls `see` for each of `layers`."""
    family = family_in(model)
    blocks = family.blocks(model)

    def hook_for(layer: int) -> Callable[..., None]:
        def hook(attention: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            with torch.no_grad():
                (q, k, v), *_ = attention_inputs(attention, args, kwargs)
                m = average_attention(q, k)
            if not torch.isfinite(m).all():
                raise NotFiniteError(
                    f"NaN or infinity in the attention of layer {layer}: check the model's weights and "
                    "the picture's values"
                )
            h = args[0] if args else kwargs[argument_names(attention)[0]]
            see(LayerView(layer, h.reshape(*m.shape, -1), q, k, v, m))

        return hook

    handles = [
        family.parts.attention(blocks[layer]).register_forward_pre_hook(
            hook_for(layer), with_kwargs=True
        )
        for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def outputs_of(model: nn.Module, layers: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """While in here, the dictionary holds what each of `layers` returned in the last forward pass."""
    family = family_in(model)
    blocks = family.blocks(model)
    outputs: dict[int, Tensor] = {}

    def hook_for(layer: int) -> Callable[..., None]:
        def hook(block: nn.Module, args: Any, output: Any) -> None:
            given = output if isinstance(output, Tensor) else output[0]  # Swin adds its maps
            given = family.rows(block, given)
            outputs[layer] = given if given.ndim > 2 else given[None]  # packed pictures (n, c)

        return hook

    handles = [blocks[layer].register_forward_hook(hook_for(layer)) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def stages_left(model: nn.Module, images: Tensor) -> Tensor:
    """(b, n): at which stage each token of `images` left, counted from 1; 0 if it stayed to the end.

    Raises PlanError if `model` has no plan applied whose method has stages.
    """
    state = applied(model)
    stages = leaving_stages(state.plan) if state else ()
    if state is None or not stages:
        raise PlanError(
            "no tokens leave this model in stages: apply a plan of EarlyExit, SPOT, ClsTopK or ASViT"
        )
    with evaluating(model), outputs_of(model, stages) as outputs:
        state.family.features(model, images)
    left = torch.zeros(outputs[stages[0]].shape[:2], dtype=torch.long, device="cpu")
    for number, stage in enumerate(stages, 1):
        for places, going_on in carried_by(outputs[stage]):  # none: the layer ran dense
            own = left[places]
            here = torch.zeros_like(own, dtype=torch.bool).scatter_(1, going_on.rows.cpu(), True)
            own[~here & (own == 0)] = number
            left[places] = own
    return left


def leaving_stages(plan: Plan) -> tuple[int, ...]:
    """The layers from whose results on fewer tokens go on; none if the plan takes no tokens out."""
    if found := plan.find(EarlyExit):
        return tuple(layer + 1 for layer in found.exits)
    found_stages = plan.find(SPOT) or plan.find(ClsTopK) or plan.find(ASViT)
    return found_stages.stages or () if found_stages else ()


@contextmanager
def inputs_of(model: nn.Module, layers: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """While in here, the dictionary holds what each of `layers` was given in the last forward pass."""
    family = family_in(model)
    blocks = family.blocks(model)
    inputs: dict[int, Tensor] = {}

    def hook_for(layer: int) -> Callable[..., None]:
        def hook(block: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs[layer] = family.rows(block, args[0])

        return hook

    handles = [blocks[layer].register_forward_pre_hook(hook_for(layer)) for layer in layers]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
