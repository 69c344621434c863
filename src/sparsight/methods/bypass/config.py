"""The settings of the bypass, as plain data."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from sparsight.methods.base import (
    Fractions,
    Layers,
    Recover,
    Settings,
    at_layer,
    check_available,
    check_everywhere,
    check_named,
    check_recover,
    fractions_text,
    layers_text,
    listed,
    resolved_layers,
)
from sparsight.scores import ScoreName


class Bypass(Settings):
    """In each of `layers` a fraction `keep` of the tokens takes part, and the others bypass all of it.

    ToSA-style (arXiv 2406.08816: selected tokens attend, the rest bypass the whole layer and are joined
    again).  Ours: by any `score` of the tokens as they come, where the paper trains a network to predict
    the next attention map; the layers; and `completion`: those that bypass are copied ("last"), or a
    linear "map" of each layer makes of them what the dense model has after it.
    """

    bound: ClassVar[None] = None  # a share of the tokens, never a bound on their error

    layers: Layers | None = None  # None: every other one, from a third of the depth on
    keep: Fractions = 1 / 2
    score: ScoreName = "standout"
    completion: Literal["last", "map"] = "map"
    sample_every: Annotated[int, Field(ge=1)] = 32  # `sampled` reads one query in so many
    recover: Recover = None  # one in so many of those who would bypass takes part all the same

    @field_validator("layers", "keep", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return listed(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_named(self.layers, "layers")
        if isinstance(self.keep, tuple) and len(self.keep) != len(self.layers or ()):
            raise ValueError(f"keep has {len(self.keep)} values for the layers {self.layers}")
        shares = self.keep if isinstance(self.keep, tuple) else (self.keep,)
        check_recover(self.recover, shares)
        if self.completion == "last" and self.score == "map-error":
            raise ValueError("score='map-error' needs completion='map'")
        return self

    @property
    def named_layers(self) -> Layers:
        """`layers` as numbers; only after they have been resolved against a model."""
        return resolved_layers(self.layers)

    def resolved(self, available: Layers, depth: int) -> Self:
        """With `layers` as numbers."""
        check_everywhere(available, depth, "a bypass")
        usual = tuple(layer for layer in available if layer >= depth // 3 and layer % 2)
        layers = (usual or available[-1:]) if self.layers is None else self.layers
        check_available(layers, available, depth)
        return self.model_copy(update={"layers": layers})

    def changed_layers(self, available: Layers) -> Layers:
        """Those that tokens bypass."""
        return self.named_layers

    def kept_at(self, layer: int) -> float:
        """The fraction that takes part in a layer."""
        return at_layer(self.keep, self.named_layers, layer)

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """Half and a quarter of the tokens; copied, then completed."""
        return (cls(completion="last"), cls(), cls(keep=1 / 4))

    def label(self) -> str:
        """Fraction, layers and score."""
        where = layers_text(self.layers) if self.layers is not None else "every other layer"
        recover = f", 1 in {self.recover} back" if self.recover else ""
        return f"{fractions_text(self.keep)} through {where}, {self.score}, {self.completion}{recover}"
