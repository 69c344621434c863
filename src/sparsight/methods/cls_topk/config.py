"""The settings of top-k pruning, by class attention or another score, as plain data."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from sparsight.methods.base import (
    Fraction,
    Layers,
    Recover,
    Settings,
    check_available,
    check_everywhere,
    check_named,
    check_recover,
    quarters,
    resolved_layers,
)
from sparsight.scores import ScoreName


class ClsTopK(Settings):
    """In each layer of `stages` the fraction `keep` of the tokens goes on; `keep`^k after k of them.

    Those of the highest `score`.  `vtc-cls` is the class attention averaged over the last `history`
    layers (paper's symbol: K).  With `recover` one in so many of those who would leave goes on all the
    same, evenly spread (as in TopV); `keep` counts them too.
    """

    stages: Layers | None = None  # None: at one, two and three quarters of the depth
    keep: Fraction = 0.7
    score: ScoreName = "class-attention"
    history: Annotated[int, Field(ge=1)] = 3
    sample_every: Annotated[int, Field(ge=1)] = 16  # `sampled` reads one query in so many
    recover: Recover = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_named(self.stages, "stages")
        check_recover(self.recover, (self.keep,))
        return self

    @property
    def named_stages(self) -> Layers:
        """`stages` as numbers; only after they have been resolved against a model."""
        return resolved_layers(self.stages)

    def noting(self, stage: int) -> Layers:
        """The layers before `stage` whose class attention it asks for."""
        first = stage - self.history + 1 if self.score == "vtc-cls" else stage
        return tuple(range(max(0, first), stage))

    def resolved(self, available: Layers, depth: int) -> Self:
        """With `stages` as numbers."""
        check_everywhere(available, depth, "pruning by class attention")
        stages = self.stages or quarters(depth)
        check_available(stages, available, depth)
        return self.model_copy(update={"stages": stages})

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """Keep 0.9 and 0.7 a stage, by one layer's class attention and by that of several."""
        return tuple(
            cls(keep=keep, score=score)
            for keep in (0.9, 0.7)
            for score in ("vtc-cls", "class-attention")
        )

    def label(self) -> str:
        """The share that goes on in each stage."""
        score = "" if self.score == "class-attention" else f", {self.score}"
        recover = f", 1 in {self.recover} back" if self.recover else ""
        return f"keep {self.keep:g} a stage{score}{recover}"

    def changed_layers(self, available: Layers) -> Layers:
        """From the first stage on, or from the first that notes something for it."""
        stage = min(self.named_stages)
        return tuple(layer for layer in available if layer >= min((stage, *self.noting(stage))))
