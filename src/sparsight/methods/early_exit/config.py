"""The settings of early exit, as plain data."""

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sparsight.errors import PlanError
from sparsight.methods.base import (
    Fractions,
    Layers,
    Recover,
    Settings,
    check_available,
    check_everywhere,
    check_named,
    check_recover,
    check_rising,
    fractions_text,
    listed,
    resolved_layers,
)
from sparsight.scores import ScoreName


class EarlyExit(Settings):
    """After each layer of `after` the tokens of the highest `score` go on and the others are finished.

    A method of our own.  `keep` is the fraction of all tokens that are there afterwards: one for the
    last exit, with equal steps down to it, or one for each.  `completion` is what those who left are
    in the end: their "last" value, or what a linear "map" makes of it, towards the final layer and
    each of `taps`.  With a `bound` a token leaves where the error predicted of its map, relative to
    the dense tokens, is below it: full pictures keep more. "calibrated" stands for the bound under
    which `keep` stay on the calibration pictures.  With `recover` one in so many of those who would
    leave goes on all the same, evenly spread (as in TopV); `keep` counts them too.
    """

    after: Layers | None = None  # None: a sixth of the depth, as in docs/early-exit.md
    keep: Fractions = 0.4
    score: ScoreName = "standout"
    completion: Literal["last", "map"] = "map"
    taps: Layers = ()
    bound: tuple[Annotated[float, Field(gt=0)], ...] | Literal["calibrated"] | None = None
    sample_every: Annotated[int, Field(ge=1)] = 32  # `sampled` reads one query in so many
    recover: Recover = None

    @field_validator("after", "keep", "taps", "bound", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return listed(value)

    @field_validator("bound", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        """Accept one number where tokens leave once."""
        return (value,) if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_named(self.after, "after")
        check_rising(self.taps, "taps")
        if isinstance(self.keep, tuple):
            if self.after is None or len(self.keep) != len(self.after):
                raise ValueError(f"keep has {len(self.keep)} values for the layers {self.after}")
            if list(self.keep) != sorted(self.keep, reverse=True):
                raise ValueError(f"keep is of all tokens and does not rise, not {list(self.keep)}")
        if self.bound is not None and self.score != "map-error":
            raise ValueError("a bound is on the error of the map: set score='map-error'")
        if isinstance(self.bound, tuple) and len(self.bound) != len(self.after or (0,)):
            raise ValueError(f"bound has {len(self.bound)} values for the layers {self.after}")
        check_recover(self.recover, self.shares)
        if self.recover is not None and self.bound is not None:
            raise ValueError("recover goes with a share that stays, keep, and not with a bound")
        if self.completion == "last" and (self.taps or self.score == "map-error"):
            raise ValueError("taps and score='map-error' need completion='map'")
        return self

    @property
    def exits(self) -> Layers:
        """`after` as numbers; only after it has been resolved against a model."""
        return resolved_layers(self.after)

    def resolved(self, available: Layers, depth: int) -> Self:
        """With `after` as numbers."""
        check_everywhere(available, depth, "early exit")
        after = (max(0, depth // 6),) if self.after is None else self.after
        check_available((*after, *self.taps), available, depth)
        if after[-1] == depth - 1:
            raise PlanError(f"after layer {after[-1]} nothing is left to skip: name earlier layers")
        if self.taps and self.taps[0] <= after[0]:
            raise PlanError(
                f"no token has left by layer {self.taps[0]}: taps are layers after {after[0]}, and "
                "the others need none"
            )
        return self.model_copy(update={"after": after})

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """From three fifths to a third of the tokens, after a sixth of the layers."""
        return tuple(cls(keep=keep) for keep in (0.6, 0.45, 0.3))

    def label(self) -> str:
        """Where tokens leave, how many stay, and by what."""
        after = ", ".join(map(str, self.after or ("?",)))
        if isinstance(self.bound, tuple):
            share = f"error below {fractions_text(self.bound)}"
        else:
            share = f"keep {fractions_text(self.keep)}" + ", bound" * (self.bound is not None)
        taps = f", taps {', '.join(map(str, self.taps))}" if self.taps else ""
        recover = f", 1 in {self.recover} back" if self.recover else ""
        return f"after {after} {share}, {self.score}{recover}, {self.completion}{taps}"

    def changed_layers(self, available: Layers) -> Layers:
        """All after the first exit."""
        return tuple(layer for layer in available if layer > self.exits[0])

    @property
    def depends_on_picture(self) -> bool:
        """Under a bound."""
        return self.bound is not None

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the tokens there, the fraction that goes on after each exit."""
        after = [1.0, *(self.kept_after(layer) for layer in self.after or (0,))]
        return tuple(now / before for before, now in pairwise(after))

    def kept_after(self, layer: int) -> float:
        """The fraction of all tokens that are there after the exits up to `layer`."""
        exits = self.after or (0,)
        done = sum(exit_ <= layer for exit_ in exits)
        if not done:
            return 1.0
        if isinstance(self.keep, tuple):
            return self.keep[done - 1]
        return 1 - (1 - self.keep) * done / len(exits)

    def taps_of(self, layer: int, depth: int) -> Layers:
        """The layers in whose results those who leave after `layer` are completed."""
        if self.completion == "last":
            return ()
        return (*(tap for tap in self.taps if layer < tap < depth - 1), depth - 1)
