"""A plan and a model become a changed model, and back: apply, restore and save.

Everything is checked before anything is changed, so a failure leaves the model as it was.
"""

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsight.errors import PlanError
from sparsight.families import Family, encoder_in, family_of
from sparsight.methods import Settings, method_of
from sparsight.plan import ModelIdentity, Plan
from sparsight.run import load, save_plan

STATE = "_sparsight"  # where a changed model keeps what `restore` needs
UNFIT = {  # by what a method needs
    "global": "{method} needs global attention, and the blocks of {family} attend within windows: use "
    "SparseViT",
    "windows": "{method} drops windows, and not every block of {family} attends within windows: use a "
    "method for global attention, such as SVE",
}
SAMPLES = 8  # weights of each block that identify it
SAMPLE_TOLERANCE = 0.02  # bfloat16 keeps 8 bits, an error of 0.4 %; other weights differ by far more


@dataclass
class Applied:
    """What was done to a model: the plan, and all that was there before."""

    plan: Plan
    family: Family
    blocks: dict[int, nn.Module] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)


def applied(model: nn.Module) -> Applied | None:
    """What was done to `model`, or None if it is as it came."""
    return model.__dict__.get(STATE)


def family_in(model: nn.Module) -> Family:
    """The family of a model, changed or not."""
    state = applied(model)
    return state.family if state else family_of(model)


def apply(
    model: nn.Module, what: "Settings | Plan | str | PathLike[str]", module: str | None = None
) -> nn.Module:
    """Make `model` sparse, in place, and return it.

    `what` is a method's settings (`sparsight.SVE(...)`), a Plan, or the path of a saved run.  `module`
    is the attribute path of the vision encoder inside a larger model, such as "vision_tower"; plans
    and their weights are of the encoder alone, and fit it alone or in any model.  Raises
    UnsupportedModelError or PlanError, with the model unchanged, if it does not fit.
    """
    whole, model = model, encoder_in(model, module)
    if applied(model):
        raise PlanError("this model already has a plan applied: call sparsight.restore(model) first")
    plan = _as_plan(what)
    family = family_of(model)
    plan = resolve(plan, model, family)
    method, container = method_of(plan.method), family.blocks(model)
    layers = plan.method.changed_layers(family.layers_with(method.needs, model))
    prefix, device = family.prefix_tokens(model), next(model.parameters()).device
    dtype = next(container[0].parameters()).dtype
    extra = {k: v.to(device, dtype) for k, v in plan.weights.items() if not k.startswith("model.")}
    wrapped = {
        layer: method.wrap(container[layer], family, prefix, plan.method, layer, extra)
        for layer in layers
    }

    state = Applied(plan, family)
    own = model.state_dict()
    with torch.no_grad():
        for name, value in plan.weights.items():
            if name.startswith("model."):
                target = own[name.removeprefix("model.")]
                state.weights[name] = target.clone()
                target.copy_(value)
    for layer, block in wrapped.items():
        state.blocks[layer] = container[layer]
        container[layer] = block
    model.__dict__[STATE] = state
    return whole


def restore(model: nn.Module, module: str | None = None) -> nn.Module:
    """Undo `apply` exactly, in place: blocks, weights, hooks and attributes.  Returns the model."""
    whole, model = model, encoder_in(model, module)
    state = _applied_or_refused(model, "restore")
    container, own = state.family.blocks(model), model.state_dict()
    for layer, block in state.blocks.items():
        container[layer] = block
    with torch.no_grad():
        for name, value in state.weights.items():
            own[name.removeprefix("model.")].copy_(value)
    del model.__dict__[STATE]
    return whole


def save(what: Plan | nn.Module, folder: str | PathLike[str], module: str | None = None) -> Path:
    """Write a plan, or the plan applied to a model, into a run folder; returns the folder."""
    if isinstance(what, Plan):
        return save_plan(what, folder)
    return save_plan(_applied_or_refused(encoder_in(what, module), "save").plan, folder)


def _applied_or_refused(model: nn.Module, verb: str) -> Applied:
    """What was done to `model`; PlanError that says where a plan is applied if it is not there."""
    state = applied(model)
    if state is not None:
        return state
    inner = [repr(name) for name, part in model.named_modules() if name and applied(part)]
    if inner:
        raise PlanError(f"the plan is applied to a part of this model: pass module={inner[0]}")
    raise PlanError(f"this model has no plan applied: there is nothing to {verb}")


def resolve(plan: Plan, model: nn.Module, family: Family) -> Plan:
    """`plan` with its layers named, after all checks against `model`."""
    method = method_of(plan.method)
    if not method.block:
        raise PlanError(
            f"{method.name} changes the pictures and not the model: there is nothing to apply"
        )
    depth, available = len(family.blocks(model)), family.layers_with(method.needs, model)
    if not available:
        raise PlanError(
            UNFIT[method.needs].format(method=type(plan.method).__name__, family=family.name)
        )
    plan = plan.with_(method=method.fit(plan.method.resolved(available, depth), model, family))
    if method.asks_prefix and family.prefix_tokens(model) == 0:
        raise PlanError(
            f"{method.name} asks the class token which others matter, and this model has none: use "
            "another method, such as tome or sve"
        )
    devices = {str(p.device) for block in family.blocks(model) for p in block.parameters()}
    if len(devices) > 1 or "meta" in devices:
        raise PlanError(
            f"the blocks of this model are on {', '.join(sorted(devices))}: a plan needs them on one "
            "device, so load it with all of the encoder there (device_map)"
        )
    if plan.model is not None:
        _check_identity(plan.model, identity(model, family))
    own = model.state_dict()
    for name, tensor in plan.weights.items():
        if not torch.isfinite(tensor).all():
            raise PlanError(f"tensor {name!r} of the plan has values that are not finite")
        if not name.startswith("model."):
            continue
        key = name.removeprefix("model.")
        if key not in own:
            raise PlanError(f"the plan changes {key!r}, which this model does not have")
        if own[key].shape != tensor.shape:
            raise PlanError(
                f"{key!r} has shape {tuple(own[key].shape)} in this model and "
                f"{tuple(tensor.shape)} in the plan"
            )
    for name, shape in method.tensors(plan.method, model, family).items():
        if name not in plan.weights:
            raise PlanError(f"the plan has no tensor {name!r}: {method.untrained}")
        if tuple(plan.weights[name].shape) != shape:
            raise PlanError(f"{name!r} has shape {tuple(plan.weights[name].shape)}, not {shape}")
    return plan


def identity(model: nn.Module, family: Family) -> ModelIdentity:
    """What identifies `model` (without a plan applied)."""
    blocks = family.blocks(model)
    return ModelIdentity(
        family=family.name,
        kind=type(model).__name__,
        depth=len(blocks),
        dim=_one_or_each([family.dim(block) for block in blocks]),
        heads=_one_or_each([family.heads(block) for block in blocks]),
        prefix_tokens=family.prefix_tokens(model),
        patch_px=family.patch_px(model),
        weight_samples=tuple(_weight_sample(block) for block in blocks),
    )


def _one_or_each(values: list[int]) -> int | tuple[int, ...]:
    return values[0] if len(set(values)) == 1 else tuple(values)


def _weight_sample(block: nn.Module) -> tuple[float, ...]:
    """A few entries of the largest weight of a block."""
    largest = max(block.parameters(), key=lambda p: p.numel()).detach().flatten()
    places = torch.linspace(0, len(largest) - 1, SAMPLES, device=largest.device).long()
    return tuple(largest[places].float().tolist())


def _check_identity(planned: ModelIdentity, actual: ModelIdentity) -> None:
    """Raise PlanError with the first thing in which the two models differ."""
    for name in type(planned).model_fields:
        if name == "weight_samples":
            continue
        if getattr(planned, name) != getattr(actual, name):
            raise PlanError(
                f"the plan was made for another model: {name.replace('_', ' ')} "
                f"{getattr(planned, name)!r} there, {getattr(actual, name)!r} here"
            )
    for layer, (one, two) in enumerate(zip(planned.weight_samples, actual.weight_samples, strict=True)):
        scale = max(map(abs, one), default=0.0)
        if len(one) != len(two) or any(
            not abs(a - b) <= SAMPLE_TOLERANCE * scale for a, b in zip(one, two, strict=True)
        ):
            raise PlanError(
                f"the plan was made for other weights: block {layer} of this model differs from the "
                "one it was made for (another checkpoint, or fine-tuned since)"
            )


def _as_plan(what: "Settings | Plan | str | PathLike[str]") -> Plan:
    if isinstance(what, Plan):
        return what
    if isinstance(what, str | Path | PathLike):
        return load(what)
    method_of(what)
    return Plan(method=what)
