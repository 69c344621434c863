"""Several pictures through a model, layer by layer: what is fitted is used from there on.

Each picture runs in a thread of its own, one at a time.  Where something is to be fitted, a picture
asks and waits; when all have asked, the answer over all of them is worked out and they go on with it.
So maps of later layers are fitted on the stream that the earlier ones repaired, in one pass, for any
host.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Protocol, Self

import torch

from sparsight.errors import PlanError


class Ask(Protocol):
    """One picture's part of a question."""

    def __iadd__(self, other: Any) -> Self:
        """With another picture's part."""

    def solved(self, what: str) -> torch.Tensor:
        """The answer over all of them; `what` names it in messages."""


Meet = Callable[[str, Ask], torch.Tensor]
Job = Callable[[Meet], Any]


class _Stopped(Exception):
    """Another picture has failed."""


class Lockstep:
    """Runs jobs that meet; `answered(what, question)` is called after each answer."""

    def __init__(self, answered: Callable[[str, Any], None] = lambda what, ask: None) -> None:
        self.turn = threading.Condition()  # whoever holds it runs
        self.asks: dict[int, tuple[str, Ask]] = {}
        self.active, self.round = 0, 0
        self.answer: torch.Tensor | None = None
        self.failed: BaseException | None = None
        self.answered = answered

    def run(self, jobs: Sequence[Job]) -> None:
        """All jobs to their end; raises what the first that failed raised."""
        self.active = len(jobs)
        with ThreadPoolExecutor(max(1, len(jobs))) as pool:  # which is left when all threads have ended
            try:
                with self.turn:  # none runs before all are there: an interrupt meets no half-made pool
                    running = [pool.submit(self._run, number, job) for number, job in enumerate(jobs)]
                # Not one long wait: a signal that arrives just before a thread blocks does not wake it.
                while wait(running, timeout=0.2).not_done:
                    pass
            except BaseException as error:  # an interrupt
                self.failed = self.failed or error
                with self.turn:
                    self.turn.notify_all()
                raise
        if self.failed is not None:
            raise self.failed

    def _run(self, number: int, job: Job) -> None:
        with self.turn, torch.no_grad():
            try:
                if self.failed is None:
                    job(lambda what, ask: self._meet(number, what, ask))
            except _Stopped:
                pass
            except BaseException as error:
                self.failed = self.failed or error
            self.active -= 1
            self._answer_if_all_asked()
            self.turn.notify_all()

    def _meet(self, number: int, what: str, ask: Ask) -> torch.Tensor:
        self.asks[number] = (what, ask)
        asked = self.round
        self._answer_if_all_asked()
        while self.round == asked and self.failed is None:
            self.turn.wait()
        if self.failed is not None:
            raise _Stopped
        assert self.answer is not None  # nobody asks anew before all have read it
        return self.answer

    def _answer_if_all_asked(self) -> None:
        """In the order of the pictures, so that sums are the same every time."""
        if not self.asks or len(self.asks) < self.active or self.failed is not None:
            return
        (what, total), *others = (self.asks[number] for number in sorted(self.asks))
        self.asks = {}
        try:
            for other, ask in others:
                if other != what:
                    raise PlanError(
                        f"pictures differ in what they skip ({what}, {other}): give pictures of one size"
                    )
                total += ask
            self.answer = total.solved(what)
            self.answered(what, total)
        except BaseException as error:
            self.failed = error
        self.round += 1
        self.turn.notify_all()
