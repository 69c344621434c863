"""Several pictures in step: sums in a fixed order, one failure ends all, and so does an interrupt."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import sparsight
from sparsight.stages import lockstep
from sparsight.stages.lockstep import Lockstep


class Sum:
    """Numbers that are added in float64 one after the other, which depends on the order."""

    def __init__(self, number, value):
        self.numbers, self.value = [number], torch.tensor(value, dtype=torch.float64)

    def __iadd__(self, other):
        self.numbers += other.numbers
        self.value = self.value + other.value
        return self

    def solved(self, what):
        if not torch.isfinite(self.value):
            raise sparsight.PlanError(f"{what} is not finite")
        return self.value


VALUES = (1e16, 1.0, -1e16, 1.0)  # 1 in this order, 0 in the reverse
LONGEST_S = 120  # of waiting for another thread, however busy the machine is


@pytest.fixture
def backwards(monkeypatch):
    """Pictures begin in the reverse of their order: each waits until the next one has begun."""
    begun = [threading.Event() for _ in (*VALUES, None)]
    begun[-1].set()

    class Backwards(ThreadPoolExecutor):
        def submit(self, run, number, job):
            def asking(meet):
                begun[number].set()  # the others run when this one waits in `meet`
                job(meet)

            return super().submit(lambda: begun[number + 1].wait(LONGEST_S) and run(number, asking))

    monkeypatch.setattr(lockstep, "ThreadPoolExecutor", Backwards)


def run(values=VALUES, rounds=3):
    began, answered, seen = [], [], [[] for _ in values]

    def job(number):
        def asking(meet):
            began.append(number)
            for round_ in range(rounds):
                seen[number].append(meet(f"question {round_}", Sum(number, values[number])).item())

        return asking

    Lockstep(lambda what, ask: answered.append((what, ask.numbers))).run(
        [job(number) for number in range(len(values))]
    )
    return began, answered, seen


@pytest.mark.usefixtures("backwards")
def test_sums_are_in_the_order_of_the_pictures_whoever_comes_first():
    assert sum(reversed(VALUES)) != sum(VALUES)
    began, answered, seen = run()
    assert began == [3, 2, 1, 0]
    assert answered == [(f"question {n}", [0, 1, 2, 3]) for n in range(3)]
    assert seen == [[sum(VALUES)] * 3] * 4


def test_one_runs_at_a_time_and_without_gradients():
    running, most, gradients = [], [], []

    def job(meet):
        running.append(1)
        most.append(len(running))
        gradients.append(torch.is_grad_enabled())
        time.sleep(0.01)
        running.pop()
        meet("a question", Sum(0, 1.0))

    Lockstep().run([job] * 4)
    assert (max(most), any(gradients)) == (1, False)


def test_a_picture_that_asks_less_often_does_not_hold_up_the_others():
    seen = []

    def job(times):
        def asking(meet):
            for _ in range(times):
                seen.append(meet("the same", Sum(times, 1.0)).item())

        return asking

    Lockstep().run([job(2), job(0), job(1)])
    assert sorted(seen) == [1.0, 2.0, 2.0]


def left_over():
    """Threads of ours that are still there: Python must not end while one is in a kernel."""
    return [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]


@pytest.mark.parametrize("kind", [sparsight.PlanError, RuntimeError, KeyboardInterrupt])
def test_an_exception_in_one_picture_ends_all(kind):
    went_on = []

    def failing(meet):
        meet("first", Sum(0, 1.0))
        raise kind("of one picture")

    def waiting(meet):
        meet("first", Sum(1, 1.0))
        meet("second", Sum(1, 1.0))
        went_on.append(True)

    with pytest.raises(kind, match="of one picture"):
        Lockstep().run([waiting, failing, waiting])
    assert not went_on
    assert not left_over()


def test_an_answer_that_cannot_be_worked_out_ends_all():
    with pytest.raises(sparsight.PlanError, match="question 0 is not finite"):
        run((1.0, float("inf")))
    assert not left_over()


def test_questions_that_differ_are_one_sentence():
    jobs = [lambda meet, n=n: meet(f"the map of layer {n}", Sum(n, 1.0)) for n in (1, 2)]
    with pytest.raises(sparsight.PlanError, match=r"differ .*layer 1, the map of layer 2\): give pict"):
        Lockstep().run(jobs)
    assert not left_over()


def test_an_interrupt_ends_all():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job ignores
    went_on = []
    lockstep = Lockstep()

    def job(meet):
        meet("first", Sum(0, 1.0))
        if not went_on:
            went_on.append("interrupted")  # once: a second interrupt does not wait
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            until = time.monotonic() + LONGEST_S  # the main thread gets its turn
            while lockstep.failed is None and time.monotonic() < until:
                time.sleep(0.01)
        try:
            meet("second", Sum(0, 1.0))
        finally:
            time.sleep(0.2)  # as a kernel that does not hear of it
        went_on.append("second")

    try:
        with pytest.raises(KeyboardInterrupt):
            lockstep.run([job] * 3)
    finally:
        signal.signal(signal.SIGINT, before)
    assert went_on == ["interrupted"]
    assert not left_over()
