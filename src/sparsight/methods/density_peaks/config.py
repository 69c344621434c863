"""The settings of merging by density peaks, as plain data."""

from typing import Annotated, Literal, Self

from pydantic import Field

from sparsight.errors import PlanError
from sparsight.methods.base import Fraction, Layers, Settings, check_available, check_everywhere


class DensityPeaks(Settings):
    """After layer `after` the image's tokens merge into `keep` of them, and unfold at the end.

    AiluRus's idea (arXiv 2311.01197), whose formulas are not public; our choices: DPC-kNN as in TCFormer
    on normalised tokens, with neighbours within `radius` rows and columns, the mean of the `nearest`
    distances as density, each token to the nearest centre in its window or else of all, attention
    weighted by sizes, and `completion`: the group's "last" value, to which a token's own "residual"
    from before the merge is added, or what a linear "map" makes of it.
    """

    after: Annotated[int, Field(ge=0)] | None = None  # None: a sixth of the depth
    keep: Fraction = 0.5
    radius: Annotated[int, Field(ge=1, le=16)] = 3
    nearest: Annotated[int, Field(ge=1)] = 5
    completion: Literal["last", "residual", "map"] = "last"

    @property
    def first(self) -> int:
        """The first layer on fewer tokens; only after `after` has been resolved against a model."""
        if self.after is None:
            raise ValueError("the layer has not been resolved against a model")
        return self.after + 1

    def resolved(self, available: Layers, depth: int) -> Self:
        """With `after` as a number."""
        check_everywhere(available, depth, "merging by density peaks")
        after = depth // 6 if self.after is None else self.after
        check_available((after,), available, depth)
        if after == depth - 1:
            raise PlanError(f"after layer {after} nothing is left to skip: name an earlier layer")
        return self.model_copy(update={"after": after})

    def changed_layers(self, available: Layers) -> Layers:
        """All after the merge."""
        return tuple(layer for layer in available if layer >= self.first)

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """Half and three tenths of the tokens; then the same completed."""
        rows = tuple(cls(keep=keep) for keep in (0.5, 0.3))
        return (*rows, *(row.completed() for row in rows))

    def label(self) -> str:
        """Where they merge, how many are left, and what completes them."""
        return f"after {self.after} keep {self.keep:.4g}, {self.completion}"
