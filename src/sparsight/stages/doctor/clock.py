"""Timing within a budget: as many repeats as fit, and nothing that does not fit."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from sparsight.stages import timing

MOST = 5  # repeats; the median of so many is steady to a few per cent on a quiet machine
TRIES = 3  # of the first arm alone, to find out how fast it is: others' work makes single ones slow
TRY, PART = 0.25, 0.1  # of the rest: what one such try may take at least, and what several may


class Clock:
    """What is left of some seconds, and how fast this machine was at its best up to now."""

    def __init__(self, seconds: float, device: torch.device) -> None:
        self.ends, self.device = time.perf_counter() + seconds, device
        self.rate: float | None = None  # GFLOPs a second

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
    ) -> dict[str, float]:
        """Median milliseconds of each arm, in no more than `share` of the rest, roughly.

        The first arm is a dense block; `gflops` is what each does, roughly.  Where there is no time to
        repeat them, each is run once or so, the first ones that fit; none if the first does not.
        """
        first = next(iter(arms))
        until = time.perf_counter() + share * self.left
        allowed = max(share, TRY) * self.left
        if not allowed or (self.rate is not None and gflops[first] / self.rate > allowed):
            return {}
        alone = self._tried(arms[first])
        speed = gflops[first] / alone
        self.rate = max(speed, self.rate or 0.0)
        round_s = sum(gflops[name] for name in arms) / speed
        repeats = min(MOST, int((until - time.perf_counter()) / round_s) - 1)  # one round warms up
        if repeats < 1:
            return {first: 1e3 * alone} | self._once(arms, gflops, speed, until)
        times = timing.interleave(arms, repeats, self.device, what)
        return {name: timing.summary(taken)["latency_ms"] for name, taken in times.items()}

    def _once(
        self, arms: Mapping[str, Callable[[], Any]], gflops: Mapping[str, float], speed: float,
        until: float,
    ) -> dict[str, float]:  # fmt: skip
        """Milliseconds of those arms after the first that fit, one after another and not in turn."""
        found = {}
        for name in list(arms)[1:]:
            if gflops[name] / speed <= until - time.perf_counter():
                found[name] = 1e3 * self._tried(arms[name])
        return found

    def _tried(self, call: Callable[[], Any]) -> float:
        """Seconds of one arm, the best of a few tries."""
        most, best = PART * self.left, float("inf")
        began = time.perf_counter()
        with torch.inference_mode():
            for _ in range(TRIES):
                start = time.perf_counter()
                call()
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                best = min(best, time.perf_counter() - start)
                if time.perf_counter() - began > most:
                    break
        return best
