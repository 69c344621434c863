"""Does a plan fit a model?  All that is checked before anything is changed, and what will be changed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.errors import PlanError
from sparsight.families import Family
from sparsight.families.grid import CuttingPatches, Grid, cutter_of
from sparsight.identity import check_identity
from sparsight.inplace import Change, check_changeable
from sparsight.methods import SVE, Settings, method_of, tensor_name
from sparsight.plan import Plan
from sparsight.scores import NEEDS, SCORES

UNFIT = {  # by what a method needs
    "global": "{method} needs global attention, and the blocks of {family} attend within windows: use "
    "SparseViT",
    "windows": "{method} drops windows, and no block of {family} attends within windows: use a method "
    "for global attention, such as SVE",
}


@dataclass(frozen=True)
class Place:
    """One module that a plan changes."""

    module: nn.Module
    kind: type[Change]  # of it
    config: Settings
    layer: int
    tensors: tuple[str, ...]  # short names of what it brings
    shared: Any = None  # with other modules
    grid: Grid | None = None  # which the plan's modules share where one of them asks for it


def places(plan: Plan, model: nn.Module, family: Family) -> Iterator[Place]:
    """Every module that a resolved plan changes."""
    blocks, asking = family.blocks(model), [config for config in plan.methods if asks_grid(config)]
    grid = Grid() if asking else None
    if asking and (cutter := cutter_of(model)) is not None:
        available = family.layers_with(method_of(asking[0]).needs, model)
        layer = min(asking[0].changed_layers(available))
        yield Place(cutter, CuttingPatches, asking[0], layer, (), grid=grid)
    for config in plan.methods:
        method = method_of(config)
        layers = config.changed_layers(family.layers_with(method.needs, model))
        shared, shapes = method.shared(config, layers), method.tensors(config, model, family)
        for layer in layers:
            module = family.parts.changed(blocks[layer], method.changes)
            names = tuple(shapes.get(layer, ()))
            yield Place(module, method.change, config, layer, names, shared.get(layer), grid)


def asks_grid(config: Settings) -> bool:
    """Whether a method, or the score it ranks by, asks for the rows and columns of the tokens."""
    score = SCORES.get(getattr(config, "score", ""))
    return method_of(config).asks_grid or (score is not None and "grid" in score.needs)


def resolve(plan: Plan, model: nn.Module, family: Family) -> Plan:
    """`plan` with its layers named, after all checks against `model`."""
    plan = with_layers(plan, model, family)
    _check_together(plan, model, family)
    devices = {str(p.device) for block in family.blocks(model) for p in block.parameters()}
    if len(devices) > 1 or "meta" in devices:
        raise PlanError(
            f"the blocks of this model are on {', '.join(sorted(devices))}: a plan needs them on one "
            "device, so load it with all of the encoder there (device_map)"
        )
    if plan.model is not None:
        check_identity(plan.model, model, family)
    _check_projections(plan, model, family)
    _check_tensors(plan, model, family)
    names = {id(part): name for name, part in model.named_modules()}
    for place in places(plan, model, family):
        known, block = method_of(place.config), family.blocks(model)[place.layer]
        parts = [place.module, *([family.parts.attention(block)] if known.by_parts else [])]
        for part in parts:
            check_changeable(part, f"{names[id(part)]!r} (layer {place.layer})")
    return plan


def with_layers(plan: Plan, model: nn.Module, family: Family) -> Plan:
    """`plan` with the layers of every method named; PlanError if one does not suit the model."""
    return plan.with_(methods=[_resolved(config, model, family) for config in plan.methods])


def _resolved(config: Settings, model: nn.Module, family: Family) -> Settings:
    """The settings of one method for this model; PlanError if they do not suit it."""
    method, depth = method_of(config), len(family.blocks(model))
    if method.changes == "pictures":
        return config
    available = family.layers_with(method.needs, model)
    drops = method.needs == "windows" and available  # what is known of its windows is enough for that
    if method.changes != "attention" and not family.has_blocks and not drops:
        raise PlanError(
            f"{type(config).__name__} works on whole blocks, which a family describes, and of this "
            f"{type(model).__name__} only its attention is known: use SVE"
        )
    if not available:
        raise PlanError(UNFIT[method.needs].format(method=type(config).__name__, family=family.name))
    found: Settings = method.fit(config.resolved(available, depth), model, family)
    score = SCORES.get(getattr(found, "score", ""))
    if score is not None and (missing := sorted(score.needs - method.provides)):
        usable = [other.name for other in SCORES.values() if other.needs <= method.provides]
        raise PlanError(
            f"{method.name} cannot rank by {score.name!r}, which needs {NEEDS[missing[0]]}: use another "
            f"score ({', '.join(usable)})"
        )
    tokens = getattr(found, "completion", "none") == "map" or (score and "tokens" in score.needs)
    if method.changes == "attention" and tokens:
        for layer in found.changed_layers(available):
            if not family.reads_tokens(layer):
                raise PlanError(
                    f"the attention of layer {layer} has no row for each token, which a map or this "
                    "score reads: use completion='none' and the score 'sampled' or 'exact' there"
                )
    if asks_grid(found) and cutter_of(model) is None:
        raise PlanError(
            f"{method.name} asks for the rows and columns of the tokens, and this "
            f"{type(model).__name__} has no convolution that cuts pictures into them: use another score "
            "or method, such as SVE by 'sampled'"
        )
    asks = method.asks_prefix or (score is not None and "class token" in score.needs)
    if asks and family.prefix_tokens(model) == 0:
        raise PlanError(
            f"{method.name} asks the class token which others matter, and this model has none: use "
            "another score or method, such as sampled attention, tome or sve"
        )
    return found


def free_layers(plan: Plan, model: nn.Module, family: Family) -> tuple[int, ...]:
    """The layers that SVE could have: no other method changes their attention or takes tokens out."""
    available = family.global_layers(model)
    taken = {
        layer
        for config in plan.methods
        if not isinstance(config, SVE) and method_of(config).changes in ("attention", "block")
        for layer in _resolved(config, model, family).changed_layers(available)
    }
    return tuple(layer for layer in available if layer not in taken)


def _check_together(plan: Plan, model: nn.Module, family: Family) -> None:
    """Raise PlanError if two methods of the plan exclude each other."""
    kinds = [type(config).__name__ for config in plan.methods]
    if doubled := [kind for kind in kinds if kinds.count(kind) > 1]:
        raise PlanError(f"the plan has {doubled[0]} twice: name all its layers in one")
    by_change: dict[str, list[Settings]] = {}
    if len(kinds) > 1 and any(method_of(config).changes == "pictures" for config in plan.methods):
        raise PlanError("a lower resolution goes with no other method: it changes the pictures")
    for config in plan.methods:
        by_change.setdefault(method_of(config).changes, []).append(config)
    taking = by_change.get("block", [])
    if len(taking) > 1:
        one, two = (type(config).__name__ for config in taking[:2])
        raise PlanError(
            f"{one} and {two} both take tokens or windows out of the blocks: choose one of them"
        )
    available = family.layers_with("global", model)
    for first, other in combinations(by_change.get("attention", []), 2):
        if shared := set(first.changed_layers(available)) & set(other.changed_layers(available)):
            raise PlanError(
                f"{type(first).__name__} and {type(other).__name__} both change the attention of layer "
                f"{min(shared)}: name other layers in one of them"
            )
    for config in by_change.get("attention", []):
        for leaving in taking:
            shared = set(config.changed_layers(available)) & set(leaving.changed_layers(available))
            if shared:
                raise PlanError(
                    f"{type(config).__name__} works where all tokens are still there, and "
                    f"{type(leaving).__name__} changes layer {min(shared)}: name layers before that"
                )


def asks_projection(config: Settings) -> bool:
    """Whether a method ranks by what the output projection makes of values."""
    score = SCORES.get(getattr(config, "score", ""))
    return score is not None and "projection" in score.needs


def _check_projections(plan: Plan, model: nn.Module, family: Family) -> None:
    """Raise PlanError if a score reads an output projection that cannot be told."""
    for config in filter(asks_projection, plan.methods):
        available = family.layers_with(method_of(config).needs, model)
        for layer in config.changed_layers(available):
            if not family.projection(model, layer):
                name = getattr(config, "score", "")
                raise PlanError(
                    f"the score {name!r} reads the output projection, and the attention of layer "
                    f"{layer} has no single weight that reads what its heads return as it is (a norm, "
                    "a gate or an adapter is between): use another score, such as 'sampled'"
                )


def _check_tensors(plan: Plan, model: nn.Module, family: Family) -> None:
    """Raise PlanError unless the plan's tensors are those that the model and its methods need."""
    own = model.state_dict()
    for name, tensor in plan.weights.items():
        if not torch.isfinite(tensor).all():
            raise PlanError(f"tensor {name!r} of the plan has values that are not finite")
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise PlanError(
                f"tensor {name!r} of the plan is of {kind}: wanted are floating-point numbers"
            )
        if name.startswith("model."):
            _check_weight(name.removeprefix("model."), tensor, own)
    for name, (config, shape) in _brought(plan, model, family).items():
        if name not in plan.weights:
            raise PlanError(f"the plan has no tensor {name!r}: {_way_to(name, config)}")
        if (found := tuple(plan.weights[name].shape)) != shape:
            raise PlanError(f"{name!r} has shape {found}, not {shape}: it was fitted for another model")


def _way_to(name: str, config: Settings) -> str:
    """How a tensor comes into a plan: its score knows, or its method does."""
    score = SCORES.get(getattr(config, "score", ""))
    of_score = score is not None and name.split(".")[2] in score.tensors(1)
    return score.untrained if score is not None and of_score else method_of(config).untrained


def named_shapes(plan: Plan, model: nn.Module, family: Family) -> dict[str, tuple[int, ...]]:
    """The tensors that the methods of a resolved plan bring, by their names in it."""
    return {name: shape for name, (_, shape) in _brought(plan, model, family).items()}


def _brought(
    plan: Plan, model: nn.Module, family: Family
) -> dict[str, tuple[Settings, tuple[int, ...]]]:
    """The same, with the settings that need them."""
    return {
        tensor_name(method_of(config).name, layer, short): (config, shape)
        for config in plan.methods
        for layer, shapes in method_of(config).tensors(config, model, family).items()
        for short, shape in shapes.items()
    }


def _check_weight(key: str, tensor: Tensor, own: dict[str, Tensor]) -> None:
    if key not in own:
        raise PlanError(f"the plan changes {key!r}, which this model does not have")
    if own[key].shape != tensor.shape:
        raise PlanError(
            f"{key!r} has shape {tuple(own[key].shape)} in this model and "
            f"{tuple(tensor.shape)} in the plan"
        )
