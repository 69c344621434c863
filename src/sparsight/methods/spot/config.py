"""The settings of SPOT, as plain data."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sparsight.errors import PlanError
from sparsight.methods.base import (
    Fraction,
    Layers,
    Settings,
    check_available,
    check_everywhere,
    check_looked_at,
    check_named,
    check_rising,
    listed,
    quarters,
    resolved_layers,
)


class SPOT(Settings):
    """Tokens leave before the attention of each of `stages`; after the k-th, rho^k of them are left.

    A small network ranks them before each stage; the plan brings its weights.  It reads a token's
    embedding and the attention statistics of the layer before and of `history` earlier ones.  One
    training serves every `rho`.  Not in the paper: `completion`="map" and `taps`, as in early exit.
    """

    stages: Layers | None = None  # None: at one, two and three quarters of the depth
    rho: Fraction = 0.7
    history: Annotated[int, Field(ge=0)] = 1
    hidden: Annotated[int, Field(ge=1)] = 32  # width of the network
    sample: Annotated[int, Field(ge=1)] = 32  # queries and keys that the statistics are taken from
    completion: Literal["last", "map"] = "last"
    taps: Layers = ()

    @field_validator("stages", "taps", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return listed(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_named(self.stages, "stages")
        check_looked_at(self.stages)
        check_rising(self.taps, "taps")
        if self.taps and self.completion == "last":
            raise ValueError("taps need completion='map'")
        return self

    @property
    def named_stages(self) -> Layers:
        """`stages` as numbers; only after they have been resolved against a model."""
        return resolved_layers(self.stages)

    def noting(self, stage: int) -> Layers:
        """The layers whose statistics decide who enters layer `stage`."""
        return tuple(range(max(0, stage - 1 - self.history), stage))

    def retained(self, layer: int) -> float:
        """The fraction of the tokens that is in `layer`'s attention."""
        return self.rho ** sum(stage <= layer for stage in self.named_stages)

    def resolved(self, available: Layers, depth: int) -> Self:
        """With `stages` as numbers."""
        check_everywhere(available, depth, "SPOT")
        stages = quarters(depth) if self.stages is None else self.stages
        check_available((*stages, *self.taps), available, depth)
        if self.taps and self.taps[0] < stages[0]:
            raise PlanError(
                f"no token has left by layer {self.taps[0]}: taps are layers from {stages[0]} on, and "
                "the others need none"
            )
        return self.model_copy(update={"stages": stages})

    def label(self) -> str:
        """The share that stays in each stage."""
        return f"rho {self.rho:g}" + ", map" * (self.completion == "map")

    def taps_of(self, layer: int, depth: int) -> Layers:
        """The layers in whose results those who do not enter `layer` are completed."""
        if self.completion == "last":
            return ()
        return (*(tap for tap in self.taps if layer <= tap < depth - 1), depth - 1)

    def changed_layers(self, available: Layers) -> Layers:
        """All from the first that is looked at."""
        first = self.noting(self.named_stages[0])[0]
        return tuple(layer for layer in available if layer >= first)


def network_names() -> tuple[str, str, str]:
    """The tensors of the network before a stage: weight, bias, and last weights."""
    return "inner.weight", "inner.bias", "outer.weight"


def network_shapes(config: SPOT, dim: int, statistics: int) -> dict[str, tuple[int, ...]]:
    """Their shapes, for tokens of width `dim` and so many statistics of each."""
    inner, bias, outer = network_names()
    return {inner: (config.hidden, dim + statistics), bias: (config.hidden,), outer: (config.hidden,)}
