"""The settings of mutual pair merging, as plain data."""

from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from sparsight.methods.base import (
    Layers,
    Settings,
    check_available,
    check_everywhere,
    check_named,
    listed,
    resolved_layers,
)


class MutualPairs(Settings):
    """Before each of `layers` pairs of tokens that are most like each other merge into their means.

    MPM-style (arXiv 2604.05718, as its abstract and public notes have it: cosine of all
    pairs, mutual, plain mean, gathered back at the end, no other knob than where).  Our choices: the
    place of the first of a pair for rotary tables, the pictures of a batch as long as the longest
    behind a mask, and `completion`: a token's own "residual" from before the merge, or a linear "map".
    """

    layers: Layers | None = None  # None: the third and sixth of twelve, and in proportion
    completion: Literal["last", "residual", "map"] = "last"

    @field_validator("layers", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return listed(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_named(self.layers, "layers")
        return self

    @property
    def named_layers(self) -> Layers:
        """`layers` as numbers; only after they have been resolved against a model."""
        return resolved_layers(self.layers)

    def resolved(self, available: Layers, depth: int) -> Self:
        """With `layers` as numbers."""
        check_everywhere(available, depth, "merging mutual pairs")
        usual = tuple(sorted({depth // 6, depth * 5 // 12}))
        layers = usual if self.layers is None else self.layers
        check_available(layers, available, depth)
        return self.model_copy(update={"layers": layers})

    def changed_layers(self, available: Layers) -> Layers:
        """All from the first merge on."""
        return tuple(layer for layer in available if layer >= self.named_layers[0])

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """The paper's two places, plain and completed."""
        return (cls(), cls().completed())

    def label(self) -> str:
        """Where they merge, and what completes them."""
        places = ", ".join(map(str, self.layers or ("?",)))
        return f"before {places}, {self.completion}"
