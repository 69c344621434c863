"""The demo: the whole pipeline on the embedded encoder, on scenes it has never seen.

analyze -> select -> distil (or take the package's result) -> predict -> reuse -> measure -> evaluate
"""

import copy
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor, device, float32

from sparsight.attach import apply
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures, SceneSamples, evaluate, picture_of
from sparsight.demo.scenes import SceneSet
from sparsight.errors import SparsightError
from sparsight.files import check_writable, write_json
from sparsight.images import check_resolution
from sparsight.methods import SVE
from sparsight.plan import Plan
from sparsight.run import load, save_plan
from sparsight.stages import timing
from sparsight.stages.arm import Arm
from sparsight.stages.calibrate import analyze
from sparsight.stages.distil import Distillation
from sparsight.stages.measure import fused, name
from sparsight.stages.optimize import optimize

# The encoder was trained on seeds from 1 000 000 000 on; these three ranges are apart from it and from
# one another, so that what is reported was seen neither in training nor in calibration.
CALIBRATION_SEED, EVALUATION_SEED, MEASURING_SEED = 50_000, 10_000, 40_000
CALIBRATION_SCENES, DISTILLATION_SCENES = 8, 256
DISTILLATION = Distillation(steps=300, scorers=("sampled", "linear"))
# Chosen by trial on calibration scenes: docs/encoder.md.
METHOD = SVE(scorer="linear", keep=3 / 16, keep_queries=1 / 32, sample_every=32)
DISTILLED = "distilled"  # the package's run folder, made by `sparsight demo --full`
RELEVANCE = "spot"  # the same of SPOT, made by `python benchmarks/spot.py --train`


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
    if full:
        say(f"1/4 analyze, select and distil: {DISTILLATION.steps} steps")
        pictures = ScenePictures(SceneSet(DISTILLATION_SCENES, resolution, CALIBRATION_SEED))
        plan = optimize(
            model, pictures, METHOD, out, DISTILLATION, max_images=CALIBRATION_SCENES, source="demo"
        )
    else:
        say("1/4 take the distilled weights from the package (--full makes them here)")
        plan = packaged_plan()
    say("2/4 analyze")
    pictures = ScenePictures(SceneSet(CALIBRATION_SCENES, resolution, CALIBRATION_SEED))
    found = analyze(model, pictures, CALIBRATION_SCENES)
    write_json(out / "analysis.json", found.model_dump(mode="json"))
    arms = build_arms(model, plan)
    save_plan(plan, out)

    say(f"3/4 measure {len(arms)} arms")
    speed = time_arms(arms, picture_of(SceneSet(1, resolution, MEASURING_SEED)[0]), repeats)
    say(f"4/4 evaluate on {scenes} held-out scenes")
    models = {arm: Arm(model) for arm, model in arms.items()}
    quality = evaluate(models, SceneSamples(SceneSet(scenes, resolution, EVALUATION_SEED)))

    return {
        "protocol": timing.protocol(
            device("cpu"), float32, resolution=name(resolution), batch=1, repeats=repeats,
            scenes=scenes, first_seed=EVALUATION_SEED,
            distilled="here" if full else "in the package",
            method=plan.method.model_dump(mode="json"), reasons=list(plan.reasons),
            miou="mean over the ten kinds of object of the IoU of pixels, background not counted",
            interval="95 % of the difference from dense, paired bootstrap over scenes",
            accuracy="share of right answers to 'is there one of this kind', over kinds and scenes",
        ),
        "rows": [{"name": arm} | speed[arm] | quality[arm] for arm in arms],
    }  # fmt: skip


def time_arms(arms: dict[str, Any], picture: Tensor, repeats: int) -> dict[str, dict[str, float]]:
    """Latency, speedup over the first arm and FLOPs of each, on one picture."""
    calls = {n: lambda m=m: m.forward_features(picture[None]) for n, m in arms.items()}
    with fused(*arms.values()):
        times = timing.interleave(calls, repeats, device("cpu"))
    rows = {arm: timing.summary(times[arm]) | {"gflops": timing.gflops(calls[arm])} for arm in arms}
    dense = next(iter(rows.values()))["latency_ms"]
    return {arm: row | {"speedup": dense / row["latency_ms"]} for arm, row in rows.items()}


def build_arms(model: Any, plan: Plan) -> dict[str, Any]:
    """The rows of the table: dense (SVE's Table 3), SVE step by step, then what needs no training."""
    full = plan.sve
    alone = full.model_copy(update={"groups": ()})
    untrained = plan.model_copy(deep=True)
    untrained.weights.clear()

    def made(base: Plan, method: SVE) -> Any:
        return apply(copy.deepcopy(model), base.with_(method=method))

    def scored(method: SVE, scorer: str) -> SVE:
        return method.model_copy(update={"scorer": scorer})

    return {
        "dense": model,
        "dense-distilled": made(plan, alone.model_copy(update={"keep": 1.0})),
        "sve-undistilled": made(untrained, scored(alone, "exact")),
        "sve-distilled": made(plan, scored(alone, "exact")),
        "sve-linear": made(plan, alone),
        "sve-reuse": made(plan, full),
        "sve-sampled": made(untrained, scored(alone, "sampled")),
        "sve-sampled-distilled": made(plan, scored(alone, "sampled")),
        "sve-sampled-reuse": made(untrained, scored(full, "sampled")),
    }


def packaged_plan(name: str = DISTILLED) -> Plan:
    """A plan and its weights that came with the package, in float32: DISTILLED, or RELEVANCE of SPOT."""
    folder = Path(str(files("sparsight.demo") / "weights" / name))
    if not folder.is_dir():
        made_by = "sparsight demo --full" if name == DISTILLED else "python benchmarks/spot.py --train"
        raise SparsightError(f"this package has no {name!r} weights: run {made_by}")
    plan = load(folder)
    return plan.with_(weights={key: value.float() for key, value in plan.weights.items()})


def measuring_pictures(resolution: tuple[int, int]) -> ScenePictures:
    """Scenes for `sparsight measure` on a run of the embedded encoder."""
    return ScenePictures(SceneSet(16, resolution, MEASURING_SEED))
