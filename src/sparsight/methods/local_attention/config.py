"""The settings of local attention, as plain data."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sparsight.methods.base import (
    Layers,
    Settings,
    check_available,
    check_layers,
    layers_text,
    listed,
)


class LocalAttention(Settings):
    """In `layers` patches attend within groups that follow from their places; no score is needed.

    `windows`  squares of `size` x `size` tokens, as JetViT gives to some of its layers; without shift.
    `stripes`  blocks of `size` x `size` tokens along SparseSAM's static order, and the first `keep` of
               that order, a lattice, which all see.
    Prefix tokens see all and are seen by all.  `completion`, ours: a linear map beside the attention.
    Our choices where the papers train or search: which layers, the size, no linear attention.
    """

    layers: Layers | Literal["all"] = "all"
    pattern: Literal["windows", "stripes"] = "windows"
    size: Annotated[int, Field(ge=1)] = 16
    keep: Annotated[float, Field(ge=0, lt=1)] = 1 / 4  # of the stripes
    completion: Literal["none", "map"] = "none"

    @field_validator("layers", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return listed(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_layers(self.layers)
        return self

    def resolved(self, available: Layers, depth: int) -> Self:
        """With `layers` as numbers."""
        if self.layers == "all":
            return self.model_copy(update={"layers": available})
        check_available(self.changed_layers(available), available, depth)
        return self

    def changed_layers(self, available: Layers) -> Layers:
        """Those that attend locally."""
        return available if isinstance(self.layers, str) else self.layers

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """Both patterns in three quarters of the layers, the least harmful; then the same completed."""
        layers = tuple(sorted(ranking[: max(1, round(len(ranking) * 3 / 4))]))
        rows = tuple(cls(layers=layers, pattern=pattern) for pattern in ("stripes", "windows"))
        return (*rows, *(row.completed() for row in rows))

    def label(self) -> str:
        """Pattern, size and layers."""
        share = f", keep {self.keep:.4g}" if self.pattern == "stripes" else ""
        more = ", map" * (self.completion == "map")
        return f"{self.pattern} {self.size}x{self.size}{share} in {layers_text(self.layers)}{more}"
