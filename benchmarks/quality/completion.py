"""Skipping and completing on the embedded encoder, without training: what each way gains and costs.

`python -m benchmarks.quality.completion` writes benchmarks/results/completion-cpu.json: latency of all
rows in one run, quality on held-out scenes, and how far from the resolution of calibration maps serve.
"""

from pathlib import Path
from typing import Any

import torch
from benchmarks import rows as shared

import sparsight
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures, SceneSamples, evaluate, picture_of
from sparsight.demo.run import CALIBRATION_SEED, EVALUATION_SEED, FEW, FIRST, MEASURING_SEED, NINE
from sparsight.demo.scenes import SceneSet
from sparsight.methods import Settings
from sparsight.plan import Plan
from sparsight.stages import timing
from sparsight.stages.arm import Arm
from sparsight.stages.bench import Bench, bench_of
from sparsight.stages.measure import name

PICTURES = 16  # of calibration
RESOLUTIONS = (768, 1152, 1280)
SIXTEENTH = sparsight.SVE(layers=(0, 1, 2), **FEW | {"keep": 1 / 16})
TWICE = sparsight.EarlyExit(after=(2, 6), keep=(0.4, 0.25))
SOONER = sparsight.EarlyExit(after=(1, 4), keep=(0.4, 0.16))
ROUTED = sparsight.MLPRouting(layers=range(3, 12), keep=1 / 2)


def leaving(keep: float, **more: Any) -> sparsight.EarlyExit:
    """Tokens leave after layer 2."""
    return sparsight.EarlyExit(after=(2,), keep=keep, **more)


ROWS: dict[str, tuple[Settings, ...]] = {
    "sve": (NINE,),
    "sve, map": (NINE.completed(),),
    **{f"mlp 1/{n}": (sparsight.MLPRouting(layers=range(2, 12), keep=1 / n),) for n in (2, 4)},
    **{
        f"exit 0.4, {how}": (leaving(0.4, **more),)
        for how, more in {
            "last value": {"completion": "last"},
            "class attention, last value": {"score": "class-attention", "completion": "last"},
            "class attention, map": {"score": "class-attention"},
            "map": {},
        }.items()
    },
    "exit 0.3, map": (leaving(0.3),),
    **{f"both {keep}": (FIRST, leaving(keep)) for keep in (0.5, 0.4, 0.3, 0.25)},
    "both, twice": (FIRST, TWICE),
    "both, twice, 1/16": (SIXTEENTH, TWICE),
    "both, sooner": (sparsight.SVE(layers=(0, 1), **FEW), SOONER),
    "all three": (FIRST, leaving(0.4), ROUTED),
}
AT_OTHER_SIZES = ("sve, map", "exit 0.4, map", "both 0.4")
REFITTED = "both 0.4"  # also with maps of the very resolution, to tell what the distance costs


def bench_at(model: Any, size: int) -> Bench:
    """Calibration scenes of one size."""
    pictures = ScenePictures(SceneSet(PICTURES, (size, size), CALIBRATION_SEED))
    return bench_of(model, pictures, PICTURES)


def judged(arms: dict[str, Any], scenes: int, size: int) -> dict[str, Any]:
    """Quality of every arm on held-out scenes."""
    samples = SceneSamples(SceneSet(scenes, (size, size), EVALUATION_SEED))
    return evaluate({arm: Arm(model) for arm, model in arms.items()}, samples)


def by_resolution(
    model: Any, plans: dict[str, Plan], size: int, scenes: int, work: Path
) -> list[dict[str, Any]]:
    """Rows of one other size: the same plans, and one with maps of that size."""
    again, _ = shared.completed(bench_at(model, size), ROWS[REFITTED], work / f"at-{size}")
    arms = {row: plans[row] for row in AT_OTHER_SIZES} | {"refitted": again}
    found = judged(shared.applied(model, arms), scenes, size)
    return [
        {"resolution": name((size, size)), "fitted": "there" if row == "refitted" else "elsewhere"}
        | shared.said(arms.get(row))
        | scores
        for row, scores in found.items()
    ]


if __name__ == "__main__":
    parser = shared.parser(__doc__, "completion-cpu", 32)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--resolutions", type=int, nargs="*", default=RESOLUTIONS)
    parser.add_argument("--resolution-scenes", type=int, default=12)
    parser.add_argument(
        "--only", default="", help="rows with this in their name, and those of other sizes"
    )
    given = parser.parse_args()
    model = encoder.load()
    bench = bench_at(model, given.size)
    chosen = [row for row in ROWS if given.only in row or row in AT_OTHER_SIZES]
    prepared = {row: shared.completed(bench, ROWS[row], given.work / row) for row in chosen}
    plans = {row: plan for row, (plan, _) in prepared.items()}
    arms = shared.applied(model, plans)
    key = (given.size, given.scenes, chosen)
    quality = shared.kept(
        given.work / "quality.json", lambda: judged(arms, given.scenes, given.size), *key
    )
    other = [
        row
        for size in given.resolutions
        for row in shared.kept(
            given.work / f"quality-{size}.json",
            lambda size=size: by_resolution(model, plans, size, given.resolution_scenes, given.work),
            given.size, given.resolution_scenes,
        )
    ]  # fmt: skip
    picture = picture_of(SceneSet(1, (given.size, given.size), MEASURING_SEED)[0])
    speed = shared.time_on(arms, [picture], given.repeats)  # last: all rows in one run, at one go
    rows = [
        shared.said(plans.get(arm))
        | {"completing_s": prepared[arm][1] if arm in prepared else None}
        | speed[arm]
        | quality[arm]
        for arm in arms
    ]
    protocol = timing.protocol(
        torch.device("cpu"), torch.float32, batch=1, repeats=given.repeats, scenes=given.scenes,
        resolution=name((given.size, given.size)), first_seed=EVALUATION_SEED,
        calibration_pictures=PICTURES, resolution_scenes=given.resolution_scenes,
        miou="mean over the ten kinds of object of the IoU of pixels, background not counted",
        interval="95 % of the difference from dense, paired bootstrap over scenes",
        command="python -m benchmarks.quality.completion",
    )  # fmt: skip
    shared.written(given.out, protocol, rows=rows, by_resolution=other)
    for row in rows:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
