"""The settings of MLP routing, as plain data."""

from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from sparsight.methods.base import (
    Fractions,
    Layers,
    Settings,
    at_layer,
    check_available,
    check_layers,
    fractions_text,
    layers_text,
    listed,
)
from sparsight.methods.bounds import Bound, check_bound
from sparsight.scores import ScoreName


class MLPRouting(Settings):
    """In `layers` a fraction `keep` of the tokens goes through the MLP, those of the highest `score`.

    A method of our own.  The others have `completion` in place of what the MLP adds: nothing ("last"),
    or a linear map fitted to it ("map").  With a `bound` a token skips the MLP where the error predicted
    of its map, relative to what the MLP gives, is below it, so full pictures keep more; "calibrated"
    stands for the bound of each layer under which `keep` go through on the calibration pictures.
    """

    layers: Layers | Literal["all"] = "all"
    keep: Fractions = 1 / 4
    score: ScoreName = "standout"
    completion: Literal["last", "map"] = "map"
    bound: Bound = None

    @field_validator("layers", "keep", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return listed(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_layers(self.layers, keep=self.keep)
        check_bound(self.bound, self.score, self.completion)
        return self

    def resolved(self, available: Layers, depth: int) -> Self:
        """With `layers` as numbers."""
        if self.layers == "all":
            return self.model_copy(update={"layers": available})
        check_available(self.changed_layers(available), available, depth)
        return self

    def changed_layers(self, available: Layers) -> Layers:
        """Those in which tokens skip the MLP."""
        return available if isinstance(self.layers, str) else self.layers

    def kept_at(self, layer: int) -> float:
        """The fraction of the tokens that goes through the MLP of a layer."""
        return at_layer(self.keep, self.changed_layers(()), layer)

    @property
    def depends_on_picture(self) -> bool:
        """Under a bound."""
        return self.bound is not None

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """Half of the tokens, everywhere."""
        return (cls(layers=tuple(sorted(ranking)), keep=1 / 2),)

    def label(self) -> str:
        """Layers and fraction."""
        if isinstance(self.bound, float):
            return f"error below {self.bound:.4g} skips the MLP of {layers_text(self.layers)}"
        share = fractions_text(self.keep) + ", bound" * (self.bound is not None)
        return f"{share} through the MLP of {layers_text(self.layers)}"
