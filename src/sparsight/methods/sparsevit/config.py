"""The settings of SparseViT, as plain data."""

from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sparsight.errors import PlanError
from sparsight.methods.base import Layers, Settings, listed
from sparsight.scores import ScoreName

if TYPE_CHECKING:
    from torch import nn

    from sparsight.families import Family

Sparsity = Annotated[float, Field(ge=0, lt=1)]


class SparseViT(Settings):
    """A fraction `sparsity` of the windows skips each pair of blocks, one regular and one shifted.

    Paper's symbol = name here: layerwise activation sparsity = `sparsity`, by stage and then by pair,
    as in ((0.6,), (0,), (0.2, 0.4, 0.5), (0,)); one figure is for every pair of every stage.  Later
    pairs drop a longer part of one ranking, so it does not fall within a stage.  Not in the paper:
    other scores than the magnitude, and `completion`="map", a linear map in place of what the skipped
    block adds.
    """

    sparsity: Sparsity | tuple[tuple[Sparsity, ...], ...] = 0.5
    score: ScoreName = "magnitude"
    completion: Literal["last", "map"] = "last"
    # A window that is dropped saves all its work, so even a small map gains.
    min_tokens: Annotated[int, Field(ge=0)] = 0

    @field_validator("sparsity", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Accept lists and other iterables, and one figure for all pairs of a stage of one pair."""
        found = listed(value)
        if not isinstance(found, tuple):
            return found
        return tuple(listed(v) if isinstance(v, Iterable) else (v,) for v in found)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.sparsity, tuple):
            for number, stage in enumerate(self.sparsity, 1):
                if list(stage) != sorted(stage):
                    raise ValueError(f"sparsity falls within stage {number}: {list(stage)}")
        if self.score == "map-error" and self.completion == "last":
            raise ValueError("score='map-error' needs completion='map'")
        return self

    @property
    def by_stage(self) -> tuple[tuple[float, ...], ...]:
        """`sparsity` of every pair; only after one figure has been resolved."""
        if not isinstance(self.sparsity, tuple):
            raise ValueError(f"sparsity={self.sparsity} has not been resolved against a model")
        return self.sparsity

    @property
    def by_pair(self) -> tuple[float, ...]:
        """`sparsity` of every pair, all stages in a row."""
        return tuple(s for stage in self.by_stage for s in stage)

    def leads(self, layer: int) -> bool:
        """Whether a block is the first of its stage that drops windows: it scores for the others."""
        ends = list(accumulate(map(len, self.by_stage), initial=0))
        first = max(end for end in ends if end <= layer // 2)
        return layer % 2 == 0 and not any(self.by_pair[first : layer // 2])

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """Two fifths and three fifths of the windows everywhere, as published and completed."""
        published = tuple(cls(sparsity=fifths / 5) for fifths in (2, 3))
        return (*published, *(row.completed() for row in published))

    def completed(self) -> Self:
        """With a map in place of what is skipped."""
        return self.model_copy(update={"score": "standout", "completion": "map"})

    def label(self) -> str:
        """The sparsity, by stage if it differs."""
        more = f", {self.score}, map" if self.completion == "map" else ""
        if not isinstance(self.sparsity, tuple):
            return f"drop {self.sparsity:.0%} of the windows{more}"
        stages = ("-".join(f"{100 * s:.0f}" for s in stage) for stage in self.sparsity)
        return f"drop {', '.join(stages)} % of the windows{more}"

    def resolved(self, available: Layers, depth: int) -> Self:
        """As it is: `fit` knows the stages."""
        return self

    def changed_layers(self, available: Layers) -> Layers:
        """Both blocks of every pair that drops windows."""
        return tuple(layer for layer in available if self.by_pair[layer // 2] > 0)


def fit(config: SparseViT, model: "nn.Module", family: "Family") -> SparseViT:
    """`config` with a figure for every pair of `model`; raises PlanError if it has other pairs."""
    assert family.windows is not None  # or the method would have been refused
    depths = family.windows.stages(model)
    if not isinstance(config.sparsity, tuple):
        every = tuple((config.sparsity,) * (depth // 2) for depth in depths)
        return config.model_copy(update={"sparsity": every})
    found, pairs = [len(stage) for stage in config.sparsity], [depth // 2 for depth in depths]
    if found != pairs:
        raise PlanError(
            f"sparsity has {found} figures in its stages; this model has {pairs} pairs of blocks in its"
        )
    return config


def dropped_count(windows: int, sparsity: float) -> int:
    """How many of `windows` are dropped: the same for every picture of that size."""
    return round(windows * sparsity)
