"""Ways to make a model sparse: each method at its default, and what the FLOPs allow it."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sparsight.attach import applied, as_plan, family_in
from sparsight.errors import SparsightError
from sparsight.fit import UNFIT
from sparsight.methods import METHODS, SVE, LowerResolution, Settings, method_of
from sparsight.stages.arm import arm_of
from sparsight.stages.compare import COMBINATIONS
from sparsight.stages.doctor.outline import gflops_of, sparse_copy

# Those that `optimize` prepares without training; the others are baselines, or are trained first.
OURS = ("sve", "mlp-routing", "early-exit", "sparsevit", *COMBINATIONS)
TRAINED = ("spot",)


@dataclass
class Way:
    """One method, or methods together, on one model."""

    name: str
    methods: tuple[Settings, ...]  # completed: with maps where the method has such
    refused: str = ""  # why it does not fit, or ""
    sparse: nn.Module | None = None  # a copy that shares the model's parameters; its maps are zeros
    gflops: float | None = None
    changes: dict[int, tuple[str, ...]] = field(default_factory=dict)  # layer -> methods there

    @property
    def label(self) -> str:
        """The settings in words, with their layers named."""
        state = applied(self.sparse) if self.sparse is not None else None
        return state.plan.label if state else as_plan(self.methods).label


def ways(model: nn.Module, size: tuple[int, int]) -> list[Way]:
    """Every method at its default, and the combinations of ours; counted at `size`, or refused."""
    family, found = family_in(model), list[Way]()
    for name, method in METHODS.items():
        default = SVE(layers="all") if method.config is SVE else method.config()
        way = Way(name, (default if method.changes == "pictures" else default.completed(),))
        if method.changes != "pictures" and not family.layers_with(method.needs, model):
            way.refused = UNFIT[method.needs].format(method=name, family=family.name)
        found.append(way)
    for name, combine in COMBINATIONS.items():
        if both := combine(model, family.global_layers(model)):
            found.append(Way(name, both[0]))
    for way in found:
        if not way.refused:
            _count(way, model, size)
    return found


def _count(way: Way, model: nn.Module, size: tuple[int, int]) -> None:
    """Build the sparse copy and count what it does; or say why that cannot be."""
    first = way.methods[0]
    try:
        if isinstance(first, LowerResolution):
            arm = arm_of(model, as_plan(way.methods), size)
            way.gflops = gflops_of(arm.model, arm.size_of(size))
            return
        way.sparse = sparse_copy(model, as_plan(way.methods))
        if first.depends_on_picture:
            raise SparsightError(
                f"{way.name} keeps as many tokens as a picture needs, which is not known before "
                "it is calibrated: run optimize on your pictures"
            )
        way.gflops = gflops_of(way.sparse, size)
    except SparsightError as error:
        way.refused, way.sparse = str(error), None
        return
    state, family = applied(way.sparse), family_in(way.sparse)
    assert state is not None
    for config in state.plan.methods:
        method = method_of(config)
        for layer in config.changed_layers(family.layers_with(method.needs, model)):
            way.changes[layer] = (*way.changes.get(layer, ()), method.name)


def row(way: Way, dense_gflops: float) -> dict[str, Any]:
    """What is reported of a way: GFLOPs, and the speed-up they allow over the dense model's."""
    known = way.gflops is not None
    return {
        "method": way.name,
        "setting": way.label if known else None,
        "gflops": way.gflops,
        "flop_limit": dense_gflops / way.gflops if way.gflops else None,
        "trained": way.name in TRAINED,
        "refused": way.refused or None,
    }
