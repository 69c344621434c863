"""The registry that ties a method's settings to what it does; one folder for each method."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from sparsight.errors import PlanError
from sparsight.methods.base import Settings
from sparsight.methods.cls_topk.config import ClsTopK
from sparsight.methods.lower_resolution.config import LowerResolution
from sparsight.methods.sparsevit import config as sparsevit
from sparsight.methods.sparsevit.config import SparseViT
from sparsight.methods.spot import config as spot_config
from sparsight.methods.spot.config import SPOT
from sparsight.methods.sve import config as sve
from sparsight.methods.sve.config import SVE, map_name, projector_name
from sparsight.methods.tome.config import ToMe

if TYPE_CHECKING:
    from torch import nn

    from sparsight.families import Family

__all__ = [
    "METHODS",
    "SPOT",
    "SVE",
    "ClsTopK",
    "LowerResolution",
    "Method",
    "Settings",
    "SparseViT",
    "ToMe",
    "map_name",
    "method_of",
    "projector_name",
]

Shapes = dict[str, tuple[int, ...]]


def _no_tensors(config: Any, model: "nn.Module", family: "Family") -> Shapes:
    return {}


def _as_it_is(config: Any, model: "nn.Module", family: "Family") -> Any:
    return config


@dataclass(frozen=True)
class Method:
    """What the rest of the package needs to know of a method."""

    name: str
    config: type[Settings]
    block: str  # "module:class" of what replaces a host's block; loaded when used; "": nothing does
    # (config, model, family) -> the tensors a plan brings beside the model's weights, and their shapes
    tensors: Callable[[Any, "nn.Module", "Family"], Shapes] = _no_tensors
    untrained: str = ""  # what to do if the plan has none of them
    needs: Literal["global", "windows"] = "global"  # the attention its blocks must have
    asks_prefix: bool = False  # reads the attention of the class token, or of a register
    # (config, model, family) -> the config with what only the model says; PlanError if it does not fit
    fit: Callable[[Any, "nn.Module", "Family"], Any] = _as_it_is

    def wrap(self, block: "nn.Module", *settings: Any) -> "nn.Module":
        """The new block for `block`: see `WrappedBlock` for the settings."""
        module, _, name = self.block.partition(":")
        return getattr(import_module(module), name)(block, *settings)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("lower-resolution", LowerResolution, ""),
        Method(
            "sve", SVE, "sparsight.methods.sve.block:SparseBlock", sve.tensors,
            untrained="scorer='linear' needs a trained projector for each layer that ranks, and "
            "mlp_rest='linear' a map fitted to the MLP: run sparsight.optimize, or use scorer='sampled' "
            "and mlp_rest='residual', which need neither",
        ),
        Method("tome", ToMe, "sparsight.methods.tome.block:MergingBlock"),
        Method("cls-topk", ClsTopK, "sparsight.methods.cls_topk.block:PruningBlock", asks_prefix=True),
        Method(
            "spot", SPOT, "sparsight.methods.spot.block:SpotBlock", spot_config.tensors,
            untrained="SPOT ranks by small networks: train them with sparsight.fit_relevance",
        ),
        Method(
            "sparsevit", SparseViT, "sparsight.methods.sparsevit.block:WindowBlock", needs="windows",
            fit=sparsevit.fit,
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
