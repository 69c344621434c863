"""A plan and a model become a changed model, and back: apply, restore, sparse and save.

Everything is checked before anything is changed (fit.py), so a failure leaves the model as it was.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsight.arguments import checked
from sparsight.errors import PlanError
from sparsight.families import Family, encoder_in, family_of
from sparsight.families.by_hand import calling_form
from sparsight.families.calls import sdpa_settings
from sparsight.fit import Place, asks_projection, places, resolve
from sparsight.inplace import STATE, argument_names, change, is_changed, unchange
from sparsight.methods import Settings, method_of, tensor_name
from sparsight.methods.site import Site
from sparsight.plan import Plan
from sparsight.run import load, save_plan
from sparsight.weights import write, write_back

What = Settings | Sequence[Settings] | Plan | str | PathLike[str]


@dataclass
class Applied:
    """What was done to a model: the plan, and the weights that were there before."""

    plan: Plan
    family: Family
    weights: dict[str, Tensor] = field(default_factory=dict)


def applied(model: nn.Module) -> Applied | None:
    """What was done to `model`, or None if it is as it came."""
    return model.__dict__.get(STATE)


def family_in(model: nn.Module) -> Family:
    """The family of a model, changed or not."""
    state = applied(model)
    return state.family if state else family_of(model)


def dense_calls(model: nn.Module) -> Counter[str]:
    """How often attention that a plan makes sparse ran dense though it was long enough, by reason."""
    states = (part.__dict__.get(STATE) for part in model.modules())
    return sum((state.dense for state in states if isinstance(state, Site)), Counter())


@checked
def apply(model: nn.Module, what: What, module: str | None = None) -> nn.Module:
    """Make `model` sparse, in place, and return it.

    `what` is a method's settings (`sparsight.SVE(...)`), several of them in a list, a Plan, or the path
    of a saved run.  `module` is the attribute path of the vision encoder inside a larger model, such as
    "vision_tower"; plans and their weights are of the encoder alone, and fit it alone or in any model.
    Raises UnsupportedModelError or PlanError, with the model unchanged, if it does not fit.
    """
    whole, model = model, encoder_in(model, module)
    if applied(model):
        raise PlanError("this model already has a plan applied: call sparsight.restore(model) first")
    plan, family = as_plan(what), family_of(model)
    if any(method_of(config).changes == "pictures" for config in plan.methods):
        raise PlanError(
            f"{plan.name} changes the pictures and not the model, so there is nothing to apply: compare "
            "runs it beside others, sparsight.compare(model, images, [plan])"
        )
    plan = resolve(plan, model, family)
    state = Applied(plan, family)
    try:
        write(model, plan, state.weights)
        for place in places(plan, model, family):
            _change(place, plan, model, family)
    except BaseException:
        _undo(model, state)
        raise
    model.__dict__[STATE] = state
    return whole


@checked
def restore(model: nn.Module, module: str | None = None) -> nn.Module:
    """Undo `apply` exactly, in place: classes, weights, hooks and attributes.  Returns the model."""
    whole, model = model, encoder_in(model, module)
    _undo(model, _applied_or_refused(model, "restore"))
    del model.__dict__[STATE]
    return whole


@contextmanager
def sparse(model: nn.Module, what: What, module: str | None = None) -> Iterator[nn.Module]:
    """`model` made sparse while in here, and as it was afterwards, whatever happens: apply, restore."""
    changed = apply(model, what, module)
    try:
        yield changed
    finally:
        restore(model, module)


def _change(place: Place, plan: Plan, model: nn.Module, family: Family) -> None:
    """One module, with the tensors that the plan has for it."""
    like = next(place.module.parameters(), next(model.parameters()))
    dtype = like.dtype if like.is_floating_point() else torch.float32
    method = method_of(place.config)
    tensors = {
        name: plan.weights[tensor_name(method.name, place.layer, name)].to(like.device, dtype)
        for name in place.tensors
    }
    site = Site(
        family, family.prefix_tokens(model), place.config, place.layer, len(family.blocks(model)),
        argument_names(place.module), place.shared, place.grid,
    )  # fmt: skip
    if asks_projection(place.config):
        site.projection = family.projection(model, place.layer)
    if method.changes == "attention" or method.needs == "windows":  # whose attention runs as it is
        attention = family.parts.attention(family.blocks(model)[place.layer])
        site.settings, site.form = sdpa_settings(attention), calling_form(attention)
    change(place.module, place.kind, site, tensors)


def _undo(model: nn.Module, state: Applied) -> None:
    for part in list(model.modules()):
        if is_changed(part):
            unchange(part)
    write_back(model, state.weights)


@checked
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


def as_plan(what: What) -> Plan:
    """A plan of whatever `apply` takes."""
    if isinstance(what, Plan):
        return what
    if isinstance(what, str | Path | PathLike):
        return load(what)
    methods = tuple(what) if isinstance(what, list | tuple) else (what,)
    for method in methods:
        method_of(method)
    if not methods:
        raise PlanError("a plan of no methods changes nothing: name at least one")
    return Plan(methods=methods)
