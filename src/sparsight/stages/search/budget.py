"""What the user asks for: a speedup, a latency, or how much quality may be lost."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from sparsight.data import Data
from sparsight.errors import SparsightError


class Budget(Data):
    """One of the three; `max_loss` is in points, hundredths of the quality."""

    speedup: Annotated[float, Field(gt=0)] | None = None
    latency_ms: Annotated[float, Field(gt=0)] | None = None
    max_loss: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.speedup, self.latency_ms, self.max_loss)) != 1:
            raise ValueError("give one of speedup, latency_ms and max_loss as the budget")
        return self

    def choose(self, front: Sequence[Mapping[str, Any]]) -> int:
        """The place in the front of the best point within the budget, by what was measured.

        The least lossy of those that are fast enough, or the fastest of those that lose little enough.
        Raises SparsightError that says what the best can do if none is within it.
        """
        loss = {place: 100 * row["quality_lost"] for place, row in enumerate(front)}
        if self.max_loss is not None:
            fitting = [place for place in loss if loss[place] <= self.max_loss]
            if fitting:
                return max(fitting, key=lambda place: front[place]["speedup"])
            best = min(loss.values())
            raise SparsightError(
                f"no setting found loses at most {self.max_loss:g} points; the best loses {best:.2f}. "
                "The front is saved: allow more, or distil"
            )
        if self.speedup is not None:
            fitting = [place for place in loss if front[place]["speedup"] >= self.speedup]
            reached = f"the fastest reaches {max(row['speedup'] for row in front):.2f}x"
            asked = f"{self.speedup:g}x as fast"
        else:
            assert self.latency_ms is not None
            fitting = [place for place in loss if front[place]["latency_ms"] <= self.latency_ms]
            reached = f"the fastest takes {min(row['latency_ms'] for row in front):.1f} ms"
            asked = f"within {self.latency_ms:g} ms"
        if fitting:
            return min(fitting, key=loss.__getitem__)
        raise SparsightError(
            f"no setting found runs {asked}; {reached}. The front is saved: ask for less, or search "
            "longer"
        )
