"""SPOT on the embedded encoder: speed and quality at several rho, from one training.

`python benchmarks/spot.py --train` trains the networks (minutes) into the package's weights; without it
they are judged on held-out scenes, and the result goes to benchmarks/results/spot-cpu.json.  Use a quiet
machine; `--speed-only` measures the speed again and keeps the quality, which does not depend on it.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sparsight
from sparsight.attach import family_in, identity
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures, SceneSamples, evaluate, picture_of
from sparsight.demo.run import (
    CALIBRATION_SEED,
    EVALUATION_SEED,
    MEASURING_SEED,
    RELEVANCE,
    packaged_plan,
    time_arms,
)
from sparsight.demo.scenes import SceneSet
from sparsight.files import write_json
from sparsight.methods.spot.block import SpotBlock
from sparsight.plan import Plan
from sparsight.run import save_plan
from sparsight.stages import timing
from sparsight.stages.arm import Arm
from sparsight.stages.measure import name as measuring_name
from sparsight.stages.relevance import CHECKPOINT_FILE, RelevanceTraining, fit_relevance

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "spot-cpu.json"
WEIGHTS = ROOT / "src" / "sparsight" / "demo" / "weights" / RELEVANCE
TRAINING = RelevanceTraining(steps=120)
TRAINING_SCENES, TRAINING_SIZE = 512, (512, 512)  # small, to be quick; the statistics know no size
SIZE = (1024, 1024)
RHOS = (0.9, 0.8, 0.7, 0.6)


def trained(model: Any, run: Path) -> Plan:
    """The networks, trained without labels on scenes of their own; goes on where it was stopped."""
    run.mkdir(parents=True, exist_ok=True)
    pictures = ScenePictures(SceneSet(TRAINING_SCENES, TRAINING_SIZE, CALIBRATION_SEED))
    plan, losses = fit_relevance(model, Plan(method=sparsight.SPOT()), pictures, TRAINING, run)
    print([round(sum(losses[at : at + 50]) / 50, 4) for at in range(0, len(losses), 50)])
    return plan.with_(
        model=identity(model, family_in(model)), versions=timing.versions(), source="demo",
        resolution=TRAINING_SIZE,
    )  # fmt: skip


def arms_of(model: Any, plan: Plan) -> dict[str, Any]:
    """Dense, SPOT at every rho, and an untrained ranking whose tokens leave before the same layers."""
    method: Any = plan.method
    before = tuple(stage - 1 for stage in method.stages)  # it drops after the attention of a layer
    arms: dict[str, Any] = {"dense": model}
    for rho in RHOS:
        changed = plan.with_(method=method.model_copy(update={"rho": rho}))
        arms[f"spot {rho}"] = sparsight.apply(copy.deepcopy(model), changed)
    for keep in RHOS:
        config = sparsight.ClsTopK(stages=before, keep=keep)
        arms[f"cls-topk {keep}"] = sparsight.apply(copy.deepcopy(model), config)
    return arms


def own_share(model: Any, picture: Tensor, repeats: int) -> float:
    """The share of a SPOT model's time that goes into statistics, ranking and taking tokens out."""
    own: list[float] = []
    usual = SpotBlock.before, SpotBlock.after

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

    SpotBlock.before, SpotBlock.after = map(timed, usual)  # type: ignore[method-assign]
    try:
        times = timing.interleave({"spot": call}, repeats, picture.device)["spot"]
    finally:
        SpotBlock.before, SpotBlock.after = usual  # type: ignore[method-assign]
    return statistics.median(own[1:]) / statistics.median(times)


def speed(arms: dict[str, Any], repeats: int) -> dict[str, dict[str, float]]:
    """Latency, FLOPs and, of SPOT, the share of its own cost, for each arm."""
    picture = picture_of(SceneSet(1, SIZE, MEASURING_SEED)[0])
    rows = time_arms(arms, picture, repeats)
    for name, row in rows.items():
        row["flops_saved"] = 1 - row["gflops"] / rows["dense"]["gflops"]
        if name.startswith("spot"):
            row["own_share"] = own_share(arms[name], picture, repeats)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--speed-only", action="store_true", help="keep the quality measured before")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "spot")
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    model = encoder.load()
    if arguments.train:
        save_plan(trained(model, arguments.run), WEIGHTS)
        (arguments.run / CHECKPOINT_FILE).unlink()
        sys.exit()

    plan = packaged_plan(RELEVANCE)
    arms = arms_of(model, plan)
    rows = speed(arms, arguments.repeats)
    if arguments.speed_only:
        old = json.loads(RESULT.read_text())
        scenes = old["protocol"]["scenes"]
        quality = {row["name"]: row for row in old["rows"]}
    else:
        scenes = arguments.scenes
        models = {name: Arm(arm) for name, arm in arms.items()}
        quality = evaluate(models, SceneSamples(SceneSet(scenes, SIZE, EVALUATION_SEED)))
    result = {
        "protocol": timing.protocol(
            torch.device("cpu"), torch.float32, resolution=measuring_name(SIZE), batch=1,
            repeats=arguments.repeats, scenes=scenes, first_seed=EVALUATION_SEED,
            method=plan.method.model_dump(mode="json"), training=plan.recipe,
            own_share="of the time: statistics, ranking, taking tokens out",
        ),
        "rows": [quality[name] | {"name": name} | rows[name] for name in arms],
    }  # fmt: skip
    write_json(RESULT, result)
    for row in result["rows"]:
        print(row)
