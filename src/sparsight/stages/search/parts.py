"""The space of a search: from methods to what may be chosen for them, checked before any work."""

from typing import Any

from torch import Tensor, nn

from sparsight.errors import PlanError
from sparsight.families import Family
from sparsight.fit import resolve, with_layers
from sparsight.methods import (
    SPOT,
    SVE,
    EarlyExit,
    MLPRouting,
    Settings,
    SparseViT,
    method_of,
    tensor_name,
)
from sparsight.plan import Plan
from sparsight.stages.bench import Bench, blank
from sparsight.stages.calibrate import analyze
from sparsight.stages.complete import fitted_shapes
from sparsight.stages.search.layers import MLPPart, sve_part
from sparsight.stages.search.space import Part, Space
from sparsight.stages.search.tokens import ExitPart, SPOTPart
from sparsight.stages.search.windows import window_part
from sparsight.stages.select import Damage

SEARCHED = (SVE, EarlyExit, MLPRouting, SPOT, SparseViT)


def best_methods(model: nn.Module, family: Family) -> tuple[str, ...]:
    """The names of what combines best where a model allows it: docs/completion.md has the figures."""
    depth, layers = len(family.blocks(model)), family.global_layers(model)
    if not layers and family.layers_with("windows", model):
        return ("sparsevit",)
    return ("sve", "early-exit") if family.has_blocks and len(layers) == depth > 2 else ("sve",)


def fitting(bench: Bench, plan: Plan) -> Plan:
    """`plan` with its methods as they fit the model; PlanError if one does not, or has no search.

    Layers that are not named are all that the method can work on.
    """
    model, family = bench.model, bench.family
    for config in plan.methods:
        if not isinstance(config, SEARCHED):
            names = ", ".join(method_of(kind()).name for kind in SEARCHED)
            raise PlanError(f"there is no search for {method_of(config).name}: use some of {names}")
        if getattr(config, "bound", None) is not None:
            raise PlanError(
                "a search knows how long settings take before it sees a picture, and under a bound that "
                "depends on it: leave out bound, and set it for the point you choose"
            )
    trial = plan.with_(methods=[_free(config, bench) for config in plan.methods])
    trial = with_layers(trial, model, family)
    resolved = resolve(blank(trial, fitted_shapes(bench, trial)), model, family)
    return plan.with_(
        methods=[
            own if isinstance(own, EarlyExit | SVE) else found.at_any_size()
            for own, found in zip(plan.methods, resolved.methods, strict=True)
        ]
    ).at_any_size()


def _free(config: Settings, bench: Bench) -> Settings:
    """What is searched set so that it excludes nothing else: the rest must fit the model."""
    depth = len(bench.family.blocks(bench.model))
    if isinstance(config, SVE):
        layers = bench.family.global_layers(bench.model)
        if isinstance(config.layers, tuple) and layers:
            layers = config.resolved(layers, depth).named_layers
        first = layers[:1] or config.layers
        return config.model_copy(update={"layers": first, "groups": (), "keep": 1 / 8})
    if isinstance(config, EarlyExit):
        last = (max(0, depth - 2),) if config.after is None else config.after
        return config.model_copy(update={"after": last, "keep": 1.0, "taps": ()})
    return config


def space_of(bench: Bench, plan: Plan, damage: Damage, picture: Tensor) -> Space:
    """What may be chosen for the methods of a plan that is `fitting`."""
    depth = len(bench.family.blocks(bench.model))
    found = {
        method_of(config).name: _part(config, bench, plan, damage, picture) for config in plan.methods
    }
    return Space(found, depth)


def _part(config: Any, bench: Bench, plan: Plan, damage: Damage, picture: Tensor) -> Part:
    if isinstance(config, SVE):
        return _keys(config, bench, plan, damage)
    if isinstance(config, EarlyExit):
        return ExitPart(config, len(bench.family.blocks(bench.model)))
    if isinstance(config, SPOT):
        return SPOTPart(config)
    if isinstance(config, SparseViT):
        return window_part(bench.model, config, picture)
    return MLPPart(config, config.changed_layers(bench.family.global_layers(bench.model)))


def _keys(config: SVE, bench: Bench, plan: Plan, damage: Damage) -> Part:
    """Of SVE, whose layers are tried alone."""
    layers = bench.family.global_layers(bench.model)
    if isinstance(config.layers, tuple):
        layers = config.layers
    if config.score == "linear":  # only layers with a projector can rank by one
        layers = tuple(n for n in layers if tensor_name("sve", n, "projector") in plan.weights)
    base = config.model_copy(update={"groups": (), "layers": layers, "keep": 1 / 8})
    alone = [base.model_copy(update={"layers": (n,), "completion": "none"}) for n in layers]
    damages = {n: damage(plan.with_(methods=[one])) for n, one in zip(layers, alone, strict=True)}
    return sve_part(base, damages, analyze(bench.model, bench.images, bench.max_images))
