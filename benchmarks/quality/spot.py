"""SPOT on the embedded encoder: gates against the map's error, last values against maps, at several rho.

`python -m benchmarks.quality.spot --train` trains the gates (minutes) into the package's weights;
without it the networks that learn the map's error are trained too, and all are judged on held-out
scenes: the result goes to benchmarks/results/spot-cpu.json.  Use a quiet machine.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks import rows as shared
from torch import Tensor

import sparsight
from sparsight.attach import as_plan, family_in
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures, SceneSamples, evaluate, picture_of
from sparsight.demo.run import (
    CALIBRATION_SEED,
    EVALUATION_SEED,
    MEASURING_SEED,
    RELEVANCE,
    packaged_plan,
)
from sparsight.demo.scenes import SceneSet
from sparsight.identity import identity
from sparsight.methods import SPOT
from sparsight.methods.reduced import Reduced
from sparsight.methods.spot.block import SpotBlock
from sparsight.plan import Plan
from sparsight.run import load, save_plan
from sparsight.stages import timing
from sparsight.stages.arm import Arm
from sparsight.stages.bench import bench_of
from sparsight.stages.measure import name as measuring_name
from sparsight.stages.relevance import CHECKPOINT_FILE, RelevanceTraining, fit_relevance

WEIGHTS = Path(encoder.__file__).parent / "weights" / RELEVANCE
GATES = RelevanceTraining(steps=120)
ERRORS = RelevanceTraining(learns="map-error", steps=600)
GATE_SCENES, GATE_SIZE = 512, (512, 512)  # small, to be quick; the statistics know no size
PICTURES = 16  # that errors are learned from; maps are fitted on half of them
RHOS = (0.9, 0.7)


def gates(model: Any, run: Path) -> Plan:
    """Networks trained as the paper's are, on scenes of their own; goes on where it was stopped."""
    run.mkdir(parents=True, exist_ok=True)
    pictures = ScenePictures(SceneSet(GATE_SCENES, GATE_SIZE, CALIBRATION_SEED))
    plan, losses = fit_relevance(model, as_plan(SPOT()), pictures, GATES, run)
    print([round(sum(losses[at : at + 50]) / 50, 4) for at in range(0, len(losses), 50)])
    return plan.with_(
        model=identity(model, family_in(model)), versions=timing.versions(), source="demo",
        resolution=GATE_SIZE,
    )  # fmt: skip


def errors(model: Any, size: tuple[int, int], steps: int, run: Path) -> tuple[Plan, float]:
    """Networks that learned the map's error, and the seconds it took; from `run`, if they are there."""
    settings = ERRORS.model_copy(update={"steps": steps})

    def trained() -> float:
        began = time.perf_counter()
        pictures = ScenePictures(SceneSet(PICTURES, size, CALIBRATION_SEED))
        plan, _ = fit_relevance(model, as_plan(SPOT()), pictures, settings)
        save_plan(plan, run)
        return time.perf_counter() - began

    seconds = shared.kept(run / "seconds.json", trained, settings.model_dump(mode="json"), size)
    return load(run), seconds


def leaving_early(plan: Plan) -> dict[str, Plan]:
    """An untrained ranking whose tokens leave before the same layers, for each rho."""
    before = tuple(stage - 1 for stage in plan.one(SPOT).named_stages)  # after the attention of a layer
    return {f"cls-topk {keep}": as_plan(sparsight.ClsTopK(stages=before, keep=keep)) for keep in RHOS}


def own_share(model: Any, picture: Tensor, repeats: int) -> float:
    """The share of a SPOT model's time for statistics, ranking, taking tokens out, and the maps."""
    own: list[float] = []
    parts = ((SpotBlock, "before"), (SpotBlock, "after"), (Reduced, "completed"))
    usual = [getattr(owner, part) for owner, part in parts]

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            began = time.perf_counter()
            result = work(*args)
            own[-1] += (time.perf_counter() - began) * 1e3
            return result

        return run

    def call() -> None:
        own.append(0.0)
        model.forward_features(picture[None])

    for (owner, part), work in zip(parts, usual, strict=True):
        setattr(owner, part, timed(work))
    try:
        times = timing.interleave({"spot": call}, repeats, picture.device)["spot"]
    finally:
        for (owner, part), work in zip(parts, usual, strict=True):
            setattr(owner, part, work)
    return statistics.median(own[1:]) / statistics.median(times)


if __name__ == "__main__":
    parser = shared.parser(__doc__, "spot-cpu", 32)
    parser.add_argument("--train", action="store_true", help="the gates, into the package's weights")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where --train puts them")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=ERRORS.steps, help="of learning the map's error")
    given = parser.parse_args()
    model, size = encoder.load(), (given.size, given.size)
    if given.train:
        save_plan(gates(model, given.work), given.weights)
        (given.work / CHECKPOINT_FILE).unlink()
        sys.exit()

    learned, learning_s = errors(model, size, given.steps, given.work / "map-error")
    pictures = ScenePictures(SceneSet(PICTURES, size, CALIBRATION_SEED))
    bench = bench_of(model, pictures, PICTURES // 2)
    plans, of_row = {}, {}
    for networks, plan in {"gates": packaged_plan(), "map-error": learned}.items():
        for rho in RHOS:
            for completion in ("last", "map"):
                config = plan.one(SPOT).model_copy(update={"rho": rho, "completion": completion})
                row = f"{networks} {rho} {completion}"
                plans[row], seconds = shared.completed(bench, plan.changed(config), given.work / row)
                of_row[row] = {
                    "networks": networks, "rho": rho, "completion": completion, "completing_s": seconds,
                }  # fmt: skip
    for row, plan in leaving_early(packaged_plan()).items():
        plans[row], of_row[row] = plan.at_any_size(), {"networks": "none", "completion": "last"}

    arms = shared.applied(model, plans)

    def judged() -> Any:
        samples = SceneSamples(SceneSet(given.scenes, size, EVALUATION_SEED))
        return evaluate({row: Arm(arm) for row, arm in arms.items()}, samples)

    quality = shared.kept(given.work / "quality.json", judged, given.scenes, size, given.steps)
    picture = picture_of(SceneSet(1, size, MEASURING_SEED)[0])
    speed = shared.time_on(arms, [picture], given.repeats)
    for row, found in speed.items():
        found["flops_saved"] = 1 - found["gflops"] / speed["dense"]["gflops"]
        if "rho" in of_row.get(row, {}):
            found["own_share"] = own_share(arms[row], picture, given.repeats)
    result = [
        shared.said(plans.get(row)) | of_row.get(row, {}) | speed[row] | quality[row] for row in arms
    ]
    protocol = timing.protocol(
        torch.device("cpu"), torch.float32, resolution=measuring_name(size), batch=1,
        repeats=given.repeats, scenes=given.scenes, first_seed=EVALUATION_SEED,
        calibration_pictures=PICTURES // 2, stages=packaged_plan().one(SPOT).named_stages,
        gates=packaged_plan().recipe, map_error=learned.recipe | {"seconds": learning_s},
        own_share="of the time: statistics, ranking, taking tokens out, maps",
        command="python -m benchmarks.quality.spot",
    )  # fmt: skip
    shared.written(given.out, protocol, rows=result)
    for row in result:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
