"""The settings of SparseViT, as plain data."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sparsight.errors import PlanError
from sparsight.methods.base import Layers, Settings, listed
from sparsight.methods.bounds import Bound, check_bound
from sparsight.scores import ScoreName

if TYPE_CHECKING:
    from torch import nn

    from sparsight.families import Family

Sparsity = Annotated[float, Field(ge=0, lt=1)]
Stages = tuple[tuple[Layers, ...], ...]


class SparseViT(Settings):
    """A fraction `sparsity` of the windows skips each unit of a stage.

    A unit is a block that attends within windows; in a Swin a pair of them, one regular and one
    shifted.  A stage is a run of them that see the same windows: in a Swin the model's stage, elsewhere
    what lies between blocks that pool, change the width or see all tokens.

    Paper's symbol = name here: layerwise activation sparsity = `sparsity`, by stage and then by unit,
    as in ((0.6,), (0,), (0.2, 0.4, 0.5), (0,)); one figure is for every unit of every stage.  Later
    units drop a longer part of one ranking, so it does not fall within a stage.  `layers` are those of
    each unit, and the model's own: `apply` fills them in.  Not in the paper: other scores than the
    magnitude, and `completion`="map", a linear map in place of what the skipped block adds.  With a
    `bound` a window is dropped where the error predicted of its map, relative to what the first block
    of the stage returns, is below it, so full pictures keep more; "calibrated" stands for the bound of
    each unit under which `sparsity` are dropped on the calibration pictures.
    """

    sparsity: Sparsity | tuple[tuple[Sparsity, ...], ...] = 0.5
    layers: Stages | None = None
    score: ScoreName = "magnitude"
    completion: Literal["last", "map"] = "last"
    bound: Bound = None
    # A window that is dropped saves all its work, so even a small map gains.
    min_tokens: Annotated[int, Field(ge=0)] = 0

    @field_validator("sparsity", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Accept lists and other iterables, and one figure for a stage of one unit."""
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
        check_bound(self.bound, self.score, self.completion)
        return self

    @property
    def by_stage(self) -> tuple[tuple[float, ...], ...]:
        """`sparsity` of every unit; only after one figure has been resolved."""
        if not isinstance(self.sparsity, tuple):
            raise ValueError(f"sparsity={self.sparsity} has not been resolved against a model")
        return self.sparsity

    @property
    def stages(self) -> tuple[dict[int, float], ...]:
        """For each stage the sparsity of its layers; of resolved settings."""
        assert self.layers is not None  # `fit` has filled them in
        return tuple(
            {layer: s for unit, s in zip(units, stage, strict=True) for layer in unit}
            for units, stage in zip(self.layers, self.by_stage, strict=True)
        )

    def stage_of(self, layer: int) -> int:
        """The place of the stage of a layer."""
        return next(n for n, stage in enumerate(self.stages) if layer in stage)

    def sparsity_of(self, layer: int) -> float:
        """What is dropped in a layer."""
        return self.stages[self.stage_of(layer)][layer]

    def leads(self, layer: int) -> bool:
        """Whether a block is the first of its stage that drops windows: it scores for the others."""
        stage = self.stages[self.stage_of(layer)]
        return layer == next((n for n, s in stage.items() if s > 0), None)

    @property
    def depends_on_picture(self) -> bool:
        """Under a bound."""
        return self.bound is not None

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
        if isinstance(self.bound, float):
            return f"drop windows of an error below {self.bound:.4g}{more}"
        more += ", bound" * (self.bound is not None)
        if not isinstance(self.sparsity, tuple):
            return f"drop {self.sparsity:.0%} of the windows{more}"
        stages = ("-".join(f"{100 * s:.0f}" for s in stage) for stage in self.sparsity)
        return f"drop {', '.join(stages)} % of the windows{more}"

    def resolved(self, available: Layers, depth: int) -> Self:
        """As it is: `fit` knows the stages."""
        return self

    def changed_layers(self, available: Layers) -> Layers:
        """The blocks of every unit that drops windows."""
        return tuple(layer for stage in self.stages for layer, s in stage.items() if s > 0)


def fit(config: SparseViT, model: "nn.Module", family: "Family") -> SparseViT:
    """`config` with a figure for every unit of `model`; raises PlanError if it has other units."""
    assert family.windows is not None  # or the method would have been refused
    stages = family.windows.stages(model)
    if config.layers not in (None, stages):
        raise PlanError("the windows of the plan are in other layers than those of this model")
    config, wanted = config.model_copy(update={"layers": stages}), list(map(len, stages))
    if not isinstance(config.sparsity, tuple):
        every = tuple((config.sparsity,) * units for units in wanted)
        return config.model_copy(update={"sparsity": every})
    if (found := list(map(len, config.sparsity))) != wanted:
        each = "blocks" if len(stages[0][0]) == 1 else "pairs of blocks"
        raise PlanError(
            f"sparsity has {found} figures in its stages; this model has {wanted} {each} with windows "
            "in its"
        )
    return config


def dropped_count(windows: int, sparsity: float) -> int:
    """How many of `windows` are dropped: the same for every picture of that size."""
    return round(windows * sparsity)
