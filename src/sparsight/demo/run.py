"""The demo: the whole pipeline on the embedded encoder, on scenes it has never seen.

analyze -> complete -> crossover -> measure -> evaluate, all without training; with `full`, SVE is
distilled as well, from where completion left it.
"""

import copy
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor, device, float32

from sparsight.attach import apply, as_plan
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures, SceneSamples, evaluate, picture_of
from sparsight.demo.scenes import SceneSet
from sparsight.errors import SparsightError
from sparsight.files import check_writable
from sparsight.images import Held, check_resolution
from sparsight.methods import SVE, EarlyExit, Settings
from sparsight.plan import Plan
from sparsight.run import load
from sparsight.stages import timing
from sparsight.stages.arm import Arm
from sparsight.stages.bench import bench_of
from sparsight.stages.complete import complete
from sparsight.stages.distil import Distillation
from sparsight.stages.measure import fused, name
from sparsight.stages.optimize import optimize

# The encoder was trained on seeds from 1 000 000 000 on; these three ranges are apart from it and from
# one another, so that what is reported was seen neither in training nor in calibration.
CALIBRATION_SEED, EVALUATION_SEED, MEASURING_SEED = 50_000, 10_000, 40_000
CALIBRATION_SCENES, DISTILLATION_SCENES = 4, 256  # 4 x 4096 tokens: over 20 for every row of a map
DISTILLATION = Distillation(steps=300)
# Settings chosen by trial on calibration scenes: docs/encoder.md.
FEW = {"keep": 3 / 16, "keep_queries": 1 / 32, "sample_every": 32}
NINE = SVE(layers=(0, 1, 2, 3, 5, 6, 7, 8, 9), **FEW)  # type: ignore[arg-type]
FIRST = SVE(layers=(0, 1, 2), **FEW)  # type: ignore[arg-type]  # while all tokens are still there
LEAVING = EarlyExit(after=(2,), keep=0.4)
BEST: tuple[Settings, ...] = (FIRST, LEAVING)  # what the demo's run holds
RELEVANCE = "spot"  # the package's run folder, made by `python -m benchmarks.quality.spot --train`


def settings() -> dict[str, tuple[Settings, ...]]:
    """The rows of the table, all without training: alone as published, completed, and combined."""
    harder = LEAVING.model_copy(update={"keep": 0.3})
    return {
        "sve": (NINE,),
        "sve-completed": (NINE.completed(),),
        "early-exit-last-value": (LEAVING.model_copy(update={"completion": "last"}),),
        "early-exit": (LEAVING,),
        "sve + early-exit": BEST,
        "sve + early-exit, fewer": (FIRST, harder),
    }


def run_demo(
    out: Path,
    resolution: tuple[int, int],
    scenes: int,
    repeats: int,
    full: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run everything; the best plan is saved in `out`, and the result is what the table shows."""
    check_resolution(resolution, (encoder.PATCH_PX, encoder.PATCH_PX))
    check_writable(out)
    model = encoder.load()
    say("1/4 analyze, complete and measure the crossover: sve + early-exit")
    pictures = Held(ScenePictures(SceneSet(CALIBRATION_SCENES, resolution, CALIBRATION_SEED)))
    plan = optimize(
        model, pictures, BEST, out, reuse_overlap=None, max_images=CALIBRATION_SCENES, source="demo"
    )
    say("2/4 complete the other rows")
    bench = bench_of(model, pictures, CALIBRATION_SCENES)
    plans = {
        row: plan if methods == BEST else complete(bench, as_plan(methods))
        for row, methods in settings().items()
    }
    if full:
        say(f"    distil sve, completed: {DISTILLATION.steps} steps")
        more = ScenePictures(SceneSet(DISTILLATION_SCENES, resolution, CALIBRATION_SEED))
        plans["sve-completed-distilled"] = optimize(
            model, more, NINE.completed(), out / "distilled", DISTILLATION, reuse_overlap=None,
            max_images=CALIBRATION_SCENES, source="demo",
        )  # fmt: skip
    arms = {"dense": model} | {row: apply(copy.deepcopy(model), p) for row, p in plans.items()}

    say(f"3/4 measure {len(arms)} arms")
    speed = time_arms(arms, picture_of(SceneSet(1, resolution, MEASURING_SEED)[0]), repeats)
    say(f"4/4 evaluate on {scenes} held-out scenes")
    models = {arm: Arm(model) for arm, model in arms.items()}
    quality = evaluate(models, SceneSamples(SceneSet(scenes, resolution, EVALUATION_SEED)))

    return {
        "protocol": timing.protocol(
            device("cpu"), float32, resolution=name(resolution), batch=1, repeats=repeats,
            scenes=scenes, first_seed=EVALUATION_SEED, calibration_scenes=CALIBRATION_SCENES,
            method=plan.label, reasons=list(plan.reasons),
            miou="mean over the ten kinds of object of the IoU of pixels, background not counted",
            interval="95 % of the difference from dense, paired bootstrap over scenes",
            accuracy="share of right answers to 'is there one of this kind', over kinds and scenes",
        ),
        "rows": [
            {"name": arm, "setting": plans[arm].label if arm in plans else ""}
            | speed[arm]
            | quality[arm]
            for arm in arms
        ],
    }  # fmt: skip


def time_arms(arms: dict[str, Any], picture: Tensor, repeats: int) -> dict[str, dict[str, float]]:
    """Latency, speedup over the first arm and FLOPs of each, on one picture."""
    calls = {n: lambda m=m: m.forward_features(picture[None]) for n, m in arms.items()}
    with fused(*arms.values()):
        times = timing.interleave(calls, repeats, device("cpu"))
    rows = {arm: timing.summary(times[arm]) | {"gflops": timing.gflops(calls[arm])} for arm in arms}
    dense = next(iter(rows.values()))["latency_ms"]
    return {arm: row | {"speedup": dense / row["latency_ms"]} for arm, row in rows.items()}


def packaged_plan() -> Plan:
    """SPOT's networks that came with the package, in float32."""
    folder = Path(str(files("sparsight.demo") / "weights" / RELEVANCE))
    if not folder.is_dir():
        raise SparsightError(
            f"this package has no {RELEVANCE!r} weights: run python -m benchmarks.quality.spot --train"
        )
    plan = load(folder)
    return plan.with_(weights={key: value.float() for key, value in plan.weights.items()})


def measuring_pictures(resolution: tuple[int, int]) -> ScenePictures:
    """Scenes for `sparsight measure` on a run of the embedded encoder."""
    return ScenePictures(SceneSet(16, resolution, MEASURING_SEED))
