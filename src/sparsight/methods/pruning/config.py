"""The settings of methods that take tokens out, as plain data."""

from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from sparsight.errors import PlanError
from sparsight.methods.base import Fraction, Layers, Settings, check_available


class Pruning(Settings):
    """Tokens leave before the attention of each of `stages`; after the k-th, rho^k of them are left.

    Paper's symbol = name here: the stages = `stages`, "quarters" being 1/4, 1/2 and 3/4 of the depth;
    rho = `rho`.  Who leaves is told by what earlier layers have noted of each token.
    """

    stages: Layers | Literal["quarters"] = "quarters"
    rho: Fraction = 0.7

    @field_validator("stages", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Accept ranges, lists and other iterables of numbers."""
        if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict):
            return tuple(value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.stages, tuple):
            if not self.stages:
                raise ValueError("stages is empty: name at least one layer, or 'quarters'")
            if list(self.stages) != sorted(set(self.stages)):
                raise ValueError(f"stages must rise and not repeat, not {list(self.stages)}")
            if self.stages[0] == 0:
                raise ValueError("no token can leave before layer 0: no attention has looked at it yet")
        return self

    @property
    def named_stages(self) -> Layers:
        """`stages` as numbers; only after "quarters" has been resolved."""
        if isinstance(self.stages, str):
            raise ValueError(f"stages={self.stages!r} has not been resolved against a model")
        return self.stages

    def noting(self, stage: int) -> Layers:
        """The layers whose notes decide who enters layer `stage`."""
        return (stage - 1,)

    def retained(self, layer: int) -> float:
        """The fraction of the tokens that is in `layer`'s attention."""
        return self.rho ** sum(stage <= layer for stage in self.named_stages)

    def resolved(self, available: Layers, depth: int) -> Self:
        """With `stages` as numbers; refuses a model with windowed layers where tokens would be gone."""
        stages = self.stages
        if stages == "quarters":
            stages = tuple(sorted({max(1, depth * quarter // 4) for quarter in (1, 2, 3)}))
        named = self.model_copy(update={"stages": stages})
        check_available((stages[-1],), tuple(range(depth)), depth)
        if missing := [n for n in range(named.noting(stages[0])[0], depth) if n not in available]:
            raise PlanError(
                f"{type(self).__name__} takes tokens out for all later layers, but layer {missing[0]} of "
                "this model attends within windows, or pools, and needs them all: use SVE"
            )
        return named

    def changed_layers(self, available: Layers) -> Layers:
        """All from the first that is looked at."""
        first = self.noting(self.named_stages[0])[0]
        return tuple(layer for layer in available if layer >= first)
