"""SparseViT on the small Swin at 1024 px: speed and quality, as published, completed and adapted.

`python -m benchmarks.swin.run` writes benchmarks/results/swin-cpu.json.  The dense model's attention is
fused.  Latency is of the whole model with its head, all arms in turn on one scene.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from benchmarks import rows as shared
from benchmarks.swin import model as swin
from benchmarks.swin.quality import objects_found, quality

import sparsight
from sparsight.attach import as_plan
from sparsight.demo.evaluate import ScenePictures
from sparsight.demo.scenes import SceneSet
from sparsight.errors import PlanError
from sparsight.methods.sparsevit.config import dropped_count
from sparsight.plan import Plan
from sparsight.stages import timing
from sparsight.stages.bench import bench_of
from sparsight.stages.measure import fused

FIRST_SEED = 20_000  # of what is judged; training, completion and adaptation have others
COMPLETING_SEED, PICTURES = 3_500_000, 8
PUBLISHED = {"score": "magnitude", "completion": "last"}
WAYS: dict[str, dict[str, str]] = {  # score and completion
    "as published": PUBLISHED,
    "magnitude, map": {"score": "magnitude", "completion": "map"},
    "standout, map": {"score": "standout", "completion": "map"},
    "map-error, map": {"score": "map-error", "completion": "map"},
}
SPARSITIES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "40 %": (0.4, tuple(WAYS)),
    "60 %": (0.6, tuple(WAYS)),
    # The published pattern: stage 1 hard, stage 3 more and more, never stages 2 and 4.
    "70, 0, 20-40-50, 0 %": (
        ((0.7,), (0.0,), (0.2, 0.4, 0.5), (0.0,)),
        ("as published", "standout, map"),
    ),
    "80, 0, 50-70-80, 0 %": (
        ((0.8,), (0.0,), (0.5, 0.7, 0.8), (0.0,)),
        ("as published", "standout, map"),
    ),
}


def dropped_share(sparsity: Any, size_px: int) -> float:
    """The share of all windows of all pairs of blocks that is dropped."""
    side, dropped, total = size_px // swin.PATCH_PX // swin.WINDOW, 0, 0
    for stage, depth in enumerate(swin.DEPTHS):
        windows = (side // 2**stage) ** 2
        for pair in range(depth // 2):
            total += windows
            figure = sparsity[stage][pair] if isinstance(sparsity, tuple) else sparsity
            dropped += dropped_count(windows, figure)
    return dropped / total


def prepared(dense: Any, size_px: int, work: Path, adapted: Plan | None) -> dict[str, tuple[Plan, dict]]:
    """Every plan with what its row says of it."""
    pictures = ScenePictures(SceneSet(PICTURES, (size_px, size_px), COMPLETING_SEED))
    bench, found = bench_of(dense, pictures, PICTURES), {}
    for setting, (sparsity, ways) in SPARSITIES.items():
        at = {"setting": setting, "windows_dropped": dropped_share(sparsity, size_px)}
        for way in ways:
            config = as_plan(sparsight.SparseViT(sparsity=sparsity, **WAYS[way]))
            plan, seconds = shared.completed(bench, config, work / f"{setting} {way}")
            found[f"{setting} {way}"] = plan, at | {"way": way, "completing_s": seconds}
        if adapted is not None and setting == "60 %":
            found[f"{setting} adapted"] = adapted, at | {"way": "standout, map, adapted"}
    return found


def of_adapted(folder: Path) -> Plan | None:
    """The adapted weights, if they are there and of this edition."""
    try:
        plan = sparsight.load(folder)
        if plan.one(sparsight.SparseViT).completion == "map":
            return plan
        print(f"{folder} was adapted without maps: run python -m benchmarks.swin.adapt --completed")
    except PlanError as error:
        print(f"no adapted row: {error}")
    return None


if __name__ == "__main__":
    parser = shared.parser(__doc__, "swin-cpu", 12, repeats=7)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--adapted", type=Path, default=swin.WEIGHTS / "adapted")
    given = parser.parse_args()
    dense, adapted = swin.load(given.size), of_adapted(given.adapted)
    arms = prepared(dense, given.size, given.work, adapted)
    models: dict[str, Any] = {"dense": dense}
    models |= {n: sparsight.apply(copy.deepcopy(dense), plan) for n, (plan, _) in arms.items()}
    scenes = SceneSet(given.scenes, (given.size, given.size), FIRST_SEED)
    key = (given.scenes, given.size, adapted.to_json() if adapted else "")
    scores = shared.kept(given.work / "quality.json", lambda: quality(models, scenes), *key)
    ranked = shared.kept(given.work / "ranking.json", lambda: objects_found(dense, scenes), *key)

    picture = torch.randn(1, 3, given.size, given.size)
    calls = {n: lambda m=m: m.segmentation(swin.stages_of(m, picture)) for n, m in models.items()}
    with fused(*models.values()):
        times = timing.interleave(calls, given.repeats, torch.device("cpu"))
        flops = {arm: timing.gflops(call) for arm, call in calls.items()}
    dense_ms, rows = timing.summary(times["dense"])["latency_ms"], []
    for arm in models:
        _, at = arms.get(arm, (None, {"setting": "dense", "windows_dropped": 0.0, "way": ""}))
        taken = timing.summary(times[arm])
        speed = {"speedup": dense_ms / taken["latency_ms"], "gflops": flops[arm]}
        rows.append(at | taken | speed | scores[arm])
        print(arm, {k: round(v, 4) for k, v in rows[-1].items() if isinstance(v, float)}, flush=True)
    protocol = timing.protocol(
        torch.device("cpu"), torch.float32, batch=1, repeats=given.repeats, scenes=given.scenes,
        resolution=f"{given.size}x{given.size}", first_seed=FIRST_SEED, calibration_pictures=PICTURES,
        adaptation=adapted.recipe.get("adaptation") if adapted else None,
        sparsity={name: sparsity for name, (sparsity, _) in SPARSITIES.items()},
        command="python -m benchmarks.swin.run",
    )  # fmt: skip
    shared.written(given.out, protocol, rows=rows, objects_found=ranked)
