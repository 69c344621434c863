"""The settings of AS-ViT, as plain data."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sparsight.errors import PlanError
from sparsight.methods.base import (
    Layers,
    Settings,
    check_available,
    check_everywhere,
    check_looked_at,
    check_named,
    listed,
    quarters,
    resolved_layers,
)


class ASViT(Settings):
    """Tokens leave before each of `stages` whose score, of the layer before, is below a threshold.

    Paper's symbol = name here: theta = the tensors `threshold`; the budget of FLOPs relative to the
    dense model's = `budget`.  `scores` are those of the "last" layer, or "accumulated" over all from the
    third on.  Where the paper trains the thresholds, ours are calibrated so that the mean operations of
    all blocks over the calibration pictures meet the budget.  Not in the paper: `completion`="map".
    """

    stages: Layers | None = None  # None: after one, two and three quarters of the depth, and one layer
    budget: Annotated[float, Field(gt=0, lt=1)] = 0.65
    scores: Literal["last", "accumulated"] = "last"
    completion: Literal["last", "map"] = "last"

    @field_validator("stages", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return listed(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_named(self.stages, "stages")
        check_looked_at(self.stages)
        return self

    @property
    def named_stages(self) -> Layers:
        """`stages` as numbers; only after they have been resolved against a model."""
        return resolved_layers(self.stages)

    @property
    def first(self) -> int:
        """The first layer whose attention is looked at."""
        before = self.named_stages[0] - 1
        return min(2, before) if self.scores == "accumulated" else before

    def notes(self, layer: int) -> bool:
        """Whether the score of a layer is asked for later."""
        if self.scores == "last":
            return layer + 1 in self.named_stages
        return layer < self.named_stages[-1]

    @property
    def depends_on_picture(self) -> bool:
        """Always."""
        return True

    def resolved(self, available: Layers, depth: int) -> Self:
        """With `stages` as numbers."""
        check_everywhere(available, depth, "AS-ViT")
        stages = self.stages or tuple(n + 1 for n in quarters(depth) if n + 1 < depth)
        if not stages:
            raise PlanError(f"AS-ViT has no layer to leave tokens out of, with {depth} layers in all")
        check_available(stages, available, depth)
        if (least := stages[0] / depth) >= self.budget:
            raise PlanError(
                f"a budget of {self.budget:g} cannot be met, since the layers before {stages[0]}, where "
                f"the first tokens leave, take {least:.2f}: raise it, or name earlier stages"
            )
        return self.model_copy(update={"stages": stages})

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """Four and two thirds of the operations, as published and completed."""
        published = tuple(cls(budget=budget) for budget in (0.8, 0.65))
        return (*published, *(row.completed() for row in published))

    def label(self) -> str:
        """The budget, and which scores."""
        more = ", accumulated" * (self.scores == "accumulated") + ", map" * (self.completion == "map")
        return f"budget {self.budget:g}{more}"

    def changed_layers(self, available: Layers) -> Layers:
        """All from the first that is looked at."""
        return tuple(layer for layer in available if layer >= self.first)
