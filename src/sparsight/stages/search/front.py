"""The Pareto front of a search: from the trials to points that were really run."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsight.modes import evaluating
from sparsight.plan import Plan
from sparsight.stages import timing
from sparsight.stages.arm import Arm, arm_of
from sparsight.stages.compare import Judge, measured
from sparsight.stages.measure import fused
from sparsight.stages.search.space import DENSE, INFEASIBLE
from sparsight.stages.search.trials import Trial

FRONT, FRONT_FILE = "front", "front.json"
FINALISTS = 8  # points of the front that are run end to end


def pareto(trials: Sequence[Trial]) -> list[Trial]:
    """Those that no other trial beats in latency without losing in error; the slowest first.

    Of those that were tried on all pictures, and skip something.
    """
    best: list[Trial] = []
    feasible = [t for t in trials if t.whole and t.error < INFEASIBLE and t.key != DENSE]
    for trial in sorted(feasible, key=lambda t: (t.latency_ms, t.error)):
        if not best or trial.error < best[-1].error:
            best.append(trial)
    return best[::-1]


def finalists(front: Sequence[Trial], wanted_ms: float | None = None) -> list[Trial]:
    """At most so many of the front, spread evenly, both ends among them.

    With a latency that is asked for, half of them are those that come nearest to it.
    """
    if len(front) <= FINALISTS:
        return list(front)
    near: set[int] = set()
    if wanted_ms is not None:
        by_distance = sorted(range(len(front)), key=lambda n: abs(front[n].latency_ms - wanted_ms))
        near = set(by_distance[: FINALISTS // 2])
    others = [place for place in range(len(front)) if place not in near]
    count = FINALISTS - len(near)
    even = {others[round(place * (len(others) - 1) / (count - 1))] for place in range(count)}
    return [front[place] for place in sorted(near | even)]


def run_front(
    model: nn.Module, picture: Tensor, plans: Sequence[Plan], trials: Sequence[Trial], repeats: int,
    judge: Judge,
) -> list[dict[str, Any]]:  # fmt: skip
    """Every plan end to end beside the dense model: latency interleaved, quality on the report split."""
    size = (picture.shape[2], picture.shape[3])
    with evaluating(model):
        arms = [Arm(model), *(arm_of(model, plan, size) for plan in plans)]
        with fused(*(arm.model for arm in arms)):
            times, counts = measured(arms, picture, repeats)
        scores = judge(arms)
    dense, wanted = timing.summary(times[0])["latency_ms"], scores[0]["quality"]
    rows = []
    for place, (plan, trial) in enumerate(zip(plans, trials, strict=True), 1):
        taken = timing.summary(times[place])
        rows.append(
            {"point": f"{place - 1:02d}", "setting": plan.label}
            | {"predicted_ms": trial.latency_ms, "search_error": trial.error}
            | taken
            | {"speedup": dense / taken["latency_ms"], "gflops": counts[place]}
            | scores[place]
            | {"quality_lost": wanted - scores[place]["quality"]}
        )
    return rows


def cleared(folder: Path, count: int) -> list[Path]:
    """The folders of `count` points, each a run of its own; those of a longer front before are gone."""
    places = [folder / FRONT / f"{place:02d}" for place in range(count)]
    for old in (folder / FRONT).glob("[0-9]*"):
        if old not in places and old.is_dir():
            shutil.rmtree(old)
    return places
