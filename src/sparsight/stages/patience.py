"""Patience: a training that ends by itself, when the error on pictures held out no longer falls.

The error is measured before the first step and every CHECK_EVERY steps.  Where it is not below the
lowest so far by a share of GAIN, the learning rate is halved; after `patience` such checks in a row, or
when the time is over, the training ends, and the weights of the lowest error are what is left.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

CHECK_EVERY, GAIN, WARMUP = 25, 0.01, 15  # steps, share, steps


class Patience:
    """The held-out error by step, and whether to go on; it can be saved and resumed."""

    def __init__(
        self, error_of: Callable[[], float], trained: Mapping[str, nn.Parameter], patience: int,
        minutes: float | None, same: Callable[[float], float] = lambda seconds: seconds,
    ) -> None:  # fmt: skip
        """`same` makes one figure of those of all processes."""
        self.error_of, self.trained, self.patience, self.same = error_of, trained, patience, same
        self.limit_s = None if minutes is None else 60 * minutes
        self.errors: list[tuple[int, float]] = []  # step, error
        self.best: dict[str, Tensor] = {}
        self.rate, self.missed, self.ended = 1.0, 0, ""
        self.before_s, self.began = 0.0, time.monotonic()

    @property
    def lowest(self) -> tuple[int, float]:
        """The step of the lowest error, and that."""
        return min(self.errors, key=lambda row: row[1])

    def rate_at(self, step: int) -> float:
        """The share of the highest learning rate."""
        return self.rate * min(1.0, (step + 1) / WARMUP)

    def over(self, step: int) -> bool:
        """Whether to end before this step, the weights being those of the lowest error then."""
        late = self.limit_s is not None and self.same(self._seconds()) >= self.limit_s
        if not self.ended and (late or step % CHECK_EVERY == 0) and not self._is_checked(step):
            self._check(step)
        if late and not self.ended:
            self.ended = f"the {self.limit_s / 60:g} minutes were over" if self.limit_s else ""
        if self.ended:
            for name, parameter in self.trained.items():
                parameter.data.copy_(self.best[name])
        return bool(self.ended)

    def _is_checked(self, step: int) -> bool:
        return bool(self.errors) and self.errors[-1][0] == step

    def _check(self, step: int) -> None:
        error = self.error_of()
        if not self.errors or error < self.lowest[1]:
            self.best = {name: p.detach().clone() for name, p in self.trained.items()}
        gained = not self.errors or error < (1 - GAIN) * self.lowest[1]
        self.errors.append((step, error))
        self.missed = 0 if gained else self.missed + 1
        if not gained:
            self.rate /= 2
        if self.missed >= self.patience:
            self.ended = f"the held-out error has not fallen in {self.patience} checks"

    def _seconds(self) -> float:
        return self.before_s + time.monotonic() - self.began

    def state(self) -> dict[str, Any]:
        """As plain data, but for the best weights."""
        return {"errors": self.errors, "rate": self.rate, "missed": self.missed, "ended": self.ended,
                "seconds": self._seconds()}  # fmt: skip

    def resume(self, state: Mapping[str, Any], best: Mapping[str, Tensor]) -> None:
        """From what was saved; the clock goes on from there."""
        self.errors = [(step, error) for step, error in state["errors"]]
        self.rate, self.missed, self.ended = state["rate"], state["missed"], state["ended"]
        self.before_s, self.began = state["seconds"], time.monotonic()
        self.best = {name: best[name].to(p.device) for name, p in self.trained.items()}

    def told(self) -> dict[str, Any]:
        """What a run keeps of it."""
        step, error = self.lowest
        return {"errors": self.errors, "ended": self.ended, "lowest": error, "lowest_at_step": step}
