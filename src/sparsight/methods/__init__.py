"""The registry that ties a method's settings to what it does; one folder for each method."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from sparsight.errors import PlanError
from sparsight.methods import tensors
from sparsight.methods.asvit.config import ASViT
from sparsight.methods.base import Layers, Settings
from sparsight.methods.bypass.config import Bypass
from sparsight.methods.cls_topk.config import ClsTopK
from sparsight.methods.density_peaks.config import DensityPeaks
from sparsight.methods.early_exit.config import EarlyExit
from sparsight.methods.local_attention.config import LocalAttention
from sparsight.methods.lower_resolution.config import LowerResolution
from sparsight.methods.mlp_routing.config import MLPRouting
from sparsight.methods.mutual_pairs.config import MutualPairs
from sparsight.methods.sparsevit import config as sparsevit
from sparsight.methods.sparsevit.config import SparseViT
from sparsight.methods.spot.config import SPOT
from sparsight.methods.sve.config import SVE
from sparsight.methods.tensors import Shapes, tensor_name
from sparsight.methods.tome.config import ToMe
from sparsight.scores import Need

if TYPE_CHECKING:
    from torch import nn

    from sparsight.families import Family
    from sparsight.inplace import Change

__all__ = [
    "METHODS",
    "SPOT",
    "SVE",
    "ASViT",
    "Bypass",
    "ClsTopK",
    "DensityPeaks",
    "EarlyExit",
    "LocalAttention",
    "LowerResolution",
    "MLPRouting",
    "Method",
    "MutualPairs",
    "Settings",
    "SparseViT",
    "ToMe",
    "method_named",
    "method_of",
    "tensor_name",
]


def _as_it_is(config: Any, model: "nn.Module", family: "Family") -> Any:
    return config


def _one_pattern_a_group(config: SVE, layers: Layers) -> dict[int, Any]:
    from sparsight.methods.sve.pattern import Pattern

    return {layer: shared for group in config.groups for shared in (Pattern(),) for layer in group}


def _the_first(config: Settings, layers: Layers) -> dict[int, Any]:
    return dict.fromkeys(layers, layers[0])


def _nothing(config: Settings, layers: Layers) -> dict[int, Any]:
    return {}


@dataclass(frozen=True)
class Method:
    """What the rest of the package needs to know of a method."""

    name: str
    config: type[Settings]
    changes: Literal["attention", "mlp", "block", "pictures"]  # which modules; pictures: none
    kind: "str | type[Change]" = ""  # the change of such a module; "module:class" is loaded when used
    # (config, model, family) -> by layer, the tensors a plan brings beside the model's weights
    tensors: Callable[[Any, "nn.Module", "Family"], Shapes] = tensors.none
    untrained: str = ""  # what to do if the plan has none of them
    needs: Literal["global", "windows"] = "global"  # the attention its blocks must have
    provides: frozenset[Need] = frozenset()  # to a score
    asks_grid: bool = False  # the rows and columns of the tokens; see families/grid.py
    asks_prefix: bool = False  # reads the attention of the class token, or of a register
    by_parts: bool = False  # runs a block from its parts, so that its attention module is not called
    # (config, model, family) -> the config with what only the model says; PlanError if it does not fit
    fit: Callable[[Any, "nn.Module", "Family"], Any] = _as_it_is
    # (config, changed layers) -> by layer, what its module shares with others
    shared: Callable[[Any, Layers], dict[int, Any]] = _nothing
    steps: tuple[str, ...] = ("crossover",)  # of the pipeline, in order; see stages/steps.py

    @property
    def change(self) -> Any:
        """The class of the change."""
        if not isinstance(self.kind, str):
            return self.kind
        module, _, name = self.kind.partition(":")
        return getattr(import_module(f"sparsight.methods.{module}"), name)


MAP = "completion='map' is fitted on pictures: run sparsight.optimize"
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "lower-resolution", LowerResolution, "pictures", tensors=tensors.of_lower_resolution,
            untrained=MAP, steps=("complete",),
        ),
        Method(
            "sve", SVE, "attention", "sve.attention:SparseAttention", tensors.of_sve, untrained=MAP,
            provides=frozenset(
                {"tokens", "attention", "class token", "projector", "projection", "grid"}
            ),
            shared=_one_pattern_a_group,
            steps=(
                "analyze", "select", "group", "project", "complete", "distil", "refit", "crossover",
                "explain",
            ),
        ),
        Method(
            "local-attention", LocalAttention, "attention", "local_attention.attention:LocalAttention",
            tensors.of_local_attention, untrained=MAP, asks_grid=True, steps=("complete", "crossover"),
        ),
        Method(
            "mlp-routing", MLPRouting, "mlp", "mlp_routing.mlp:RoutedMLP", tensors.of_mlp_routing,
            untrained=MAP, provides=frozenset({"tokens", "map"}), steps=("complete", "crossover"),
        ),
        Method(
            "early-exit", EarlyExit, "block", "early_exit.block:ExitBlock", tensors.of_early_exit,
            untrained=MAP,
            provides=frozenset({"tokens", "attention", "class token", "map", "projection", "count"}),
            shared=_the_first, steps=("analyze", "complete", "crossover"),
        ),
        Method(
            "bypass", Bypass, "block", "bypass.block:BypassBlock", tensors.of_bypass, untrained=MAP,
            provides=frozenset({"tokens", "attention", "class token", "map", "projection", "count"}),
            steps=("complete", "crossover"),
        ),
        Method(
            "density-peaks", DensityPeaks, "block", "density_peaks.block:PeaksBlock",
            tensors.of_merging, untrained=MAP, asks_grid=True, shared=_the_first, by_parts=True,
            steps=("complete", "crossover"),
        ),
        Method(
            "mutual-pairs", MutualPairs, "block", "mutual_pairs.block:PairsBlock", tensors.of_merging,
            untrained=MAP, shared=_the_first, by_parts=True, steps=("complete", "crossover"),
        ),
        Method("tome", ToMe, "block", "tome.block:MergingBlock", shared=_the_first, by_parts=True),
        Method(
            "cls-topk", ClsTopK, "block", "cls_topk.block:PruningBlock",
            provides=frozenset(
                {"tokens", "attention", "class token", "class notes", "projection", "heads", "before",
                 "count"}
            ),
            shared=_the_first, by_parts=True,
        ),
        Method(
            "asvit", ASViT, "block", "asvit.block:ThresholdBlock", tensors.of_asvit,
            untrained="AS-ViT's thresholds are calibrated on pictures: run sparsight.optimize",
            asks_prefix=True, shared=_the_first, by_parts=True,
            steps=("analyze", "complete", "crossover"),
        ),
        Method(
            "spot", SPOT, "block", "spot.block:SpotBlock", tensors.of_spot,
            untrained="SPOT ranks by small networks: train them with sparsight.optimize",
            provides=frozenset({"tokens", "notes", "map"}), shared=_the_first, by_parts=True,
            steps=("analyze", "relevance", "complete", "crossover"),
        ),
        Method(
            "sparsevit", SparseViT, "block", "sparsevit.block:WindowBlock", tensors.of_sparsevit,
            untrained=MAP, needs="windows", provides=frozenset({"tokens", "map"}), fit=sparsevit.fit,
            steps=("complete", "adapt"),
        ),
    )
}  # fmt: skip


def method_of(config: Any) -> Method:
    """The method whose settings `config` is."""
    for method in METHODS.values():
        if type(config) is method.config:
            return method
    known = ", ".join(m.config.__name__ for m in METHODS.values())
    raise PlanError(f"{type(config).__name__} is no method's settings; there are {known}")


def method_named(name: str) -> Method:
    """The method called `name`."""
    if name not in METHODS:
        raise PlanError(f"no method is called {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]
