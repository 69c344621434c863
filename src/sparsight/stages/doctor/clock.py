"""Timing within a budget: as many repeats as fit, and nothing that does not fit."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from sparsight.stages import timing

MOST = 5  # repeats; the median of so many is steady to a few per cent on a quiet machine


class Clock:
    """What is left of some seconds, and how fast this machine is."""

    def __init__(self, seconds: float, device: torch.device) -> None:
        self.ends, self.device = time.perf_counter() + seconds, device
        self.rate: float | None = None  # GFLOPs a second, of the dense block that was timed last

    @property
    def left(self) -> float:
        """Seconds."""
        return max(0.0, self.ends - time.perf_counter())

    def time(
        self,
        arms: Mapping[str, Callable[[], Any]],
        gflops: Mapping[str, float],
        share: float,
        what: str = "Timing single blocks",
    ) -> dict[str, float] | None:
        """Median milliseconds of each arm, or None if that would take more than `share` of the rest.

        The first arm is a dense block; `gflops` is what each arm does, roughly.
        """
        first = next(iter(arms))
        if share * self.left <= 0:
            return None
        if self.rate is None:
            self._pilot(arms[first], gflops[first])
        assert self.rate is not None
        round_s = sum(gflops[name] for name in arms) / self.rate
        repeats = min(MOST, int(share * self.left / round_s) - 1)  # one round warms up
        if repeats < 1:
            return None
        times = timing.interleave(arms, repeats, self.device, what)
        found = {name: timing.summary(taken)["latency_ms"] for name, taken in times.items()}
        self.rate = 1e3 * gflops[first] / found[first]
        return found

    def _pilot(self, call: Callable[[], Any], gflops: float) -> None:
        """A first guess at the rate."""
        took = timing.interleave({"": call}, 1, self.device)[""][0]
        self.rate = 1e3 * gflops / took
