"""Runs that were cut off after their maps were fitted, what they saved changed, and the same call again.

Known: what was saved unchanged leads to the maps of a run that was left alone.
"""

import random
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from benchmarks.hostile.judge import Case
from benchmarks.hostile.run_folders import bytes_, fields, nothing, tensors
from benchmarks.hostile.small import fingerprint, model, pictures

import sparsight

INTERRUPTED = sparsight.SVE(layers=(0, 1), completion="map", min_tokens=0)


@cache
def interrupted() -> Path:
    """A run that was cut off after its maps were fitted."""
    from sparsight.stages.steps import STEPS

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    out, old = Path(tempfile.mkdtemp(prefix="hostile-cut-")), STEPS["crossover"]
    STEPS["crossover"] = stop
    try:
        sparsight.optimize(model(), pictures(4, (64, 96)), INTERRUPTED, out)
    except KeyboardInterrupt:
        pass
    finally:
        STEPS["crossover"] = old
    return out


@cache
def uninterrupted() -> dict[str, torch.Tensor]:
    """The maps of the same run, left alone."""
    return dict(sparsight.optimize(model(), pictures(4, (64, 96)), INTERRUPTED).weights)


def make(rng: random.Random, place: Path) -> Case:
    """An interrupted run whose saved state was changed, and the same call again."""
    shutil.copytree(interrupted(), place / "out")
    what, _ = rng.choice((fields, fields, tensors, bytes_, nothing))(rng, place / "out/unfinished", "")
    wanted = uninterrupted()

    def flaw(plan: sparsight.Plan) -> str:
        same = plan.weights.keys() == wanted.keys() and all(
            plan.weights[k].equal(wanted[k]) for k in wanted
        )
        return "" if same or what != "nothing" else "other maps than without the interrupt"

    return Case(
        f"unfinished: {what}",
        lambda: sparsight.optimize(model(), pictures(4, (64, 96)), INTERRUPTED, place / "out"),
        flaw, "work" if what == "nothing" else "", lambda: fingerprint(model()),
    )  # fmt: skip
