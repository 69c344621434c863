"""The settings of ToMe, as plain data."""

from typing import Annotated, Self

from pydantic import Field

from sparsight.methods.base import Layers, Settings, check_everywhere


class ToMe(Settings):
    """In every layer a fraction `merge` of the image's tokens is merged into others.

    Paper's symbol = name here: r = `merge` times the number of tokens, the same count in every layer.
    """

    merge: Annotated[float, Field(gt=0, le=0.5)] = 1 / 24

    def resolved(self, available: Layers, depth: int) -> Self:
        """As it is, if every layer has global attention."""
        check_everywhere(available, depth, "ToMe")
        return self

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """So that 3/4 and 1/2 of the tokens are left at the end."""
        return tuple(cls(merge=(1 - left) / len(ranking)) for left in (3 / 4, 1 / 2))

    def label(self) -> str:
        """The share that merges in each layer."""
        return f"merge {100 * self.merge:.1f} % a layer"

    def changed_layers(self, available: Layers) -> Layers:
        """All."""
        return available
