"""The registry that ties a method's settings to what it does; one folder for each method."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsight.errors import PlanError
from sparsight.methods.sve.config import SVE

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sparsight.families import Family

Config = SVE  # the union of all methods' settings, as methods are added


@dataclass(frozen=True)
class Method:
    """What the rest of the package needs to know of a method."""

    name: str
    config: type[Config]
    wrap: Callable[..., "nn.Module"]  # (block, family, prefix, config, layer, tensors) -> new block
    tensors: Callable[[Config], dict[str, int]]  # tensor a layer needs beside the weights -> layer


def _wrap_sve(
    block: "nn.Module", family: "Family", prefix: int, config: SVE, layer: int,
    tensors: dict[str, "Tensor"],
) -> "nn.Module":  # fmt: skip
    from sparsight.methods.sve.block import SparseBlock

    leader = config.followers().get(layer, layer)
    return SparseBlock(block, family, prefix, config, layer, tensors.get(projector_name(leader)))


def projector_name(layer: int) -> str:
    """Under which name the projector of a layer is saved."""
    return f"sve.projector.{layer}"


def _projectors(config: SVE) -> dict[str, int]:
    if config.scorer != "linear" or not isinstance(config.layers, tuple):
        return {}
    return {projector_name(n): n for n in config.layers if n not in config.followers()}


METHODS: dict[str, Method] = {"sve": Method("sve", SVE, _wrap_sve, _projectors)}


def method_of(config: Any) -> Method:
    """The method whose settings `config` is."""
    for method in METHODS.values():
        if isinstance(config, method.config):
            return method
    known = ", ".join(m.config.__name__ for m in METHODS.values())
    raise PlanError(f"{type(config).__name__} is no method's settings; there are {known}")
