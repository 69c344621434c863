"""Every score on the embedded encoder, at the same share that is kept: what each loses and costs.

`python -m benchmarks.quality.scores` writes results/scores-cpu.json: early exit with maps, sparse
attention without, pruning, and AS-ViT's thresholds; latency of all rows in one run, quality on held-out
scenes.  Nothing is trained.  `--only WORD` takes some of the rows.
"""

from typing import Any

import torch
from benchmarks import rows as shared

import sparsight
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures, SceneSamples, evaluate, picture_of
from sparsight.demo.run import CALIBRATION_SEED, EVALUATION_SEED, MEASURING_SEED, NINE
from sparsight.demo.scenes import SceneSet
from sparsight.methods import METHODS, Settings
from sparsight.scores import SCORES
from sparsight.stages import timing
from sparsight.stages.arm import Arm
from sparsight.stages.bench import bench_of
from sparsight.stages.measure import name

PICTURES = 8  # of calibration
EXIT = sparsight.EarlyExit(after=(2,), keep=0.3)
PRUNING = sparsight.ClsTopK(keep=0.7)
TRAINED = ("linear", "relevance")


def by_score(config: Settings) -> dict[str, Settings]:
    """A method with every score that it can use, and the default one with a stride of the others."""
    method = next(m for m in METHODS.values() if type(config) is m.config)
    usable = [s.name for s in SCORES.values() if s.needs <= method.provides and s.name not in TRAINED]
    found = {f"{method.name} {s}": config.model_copy(update={"score": s}) for s in usable}
    if hasattr(config, "recover"):
        found[f"{method.name} recover"] = config.model_copy(update={"recover": 4})
    return found


ROWS: dict[str, Settings] = {
    **by_score(EXIT),
    **by_score(NINE),
    **by_score(PRUNING),
    **{f"asvit {budget}": sparsight.ASViT(budget=budget) for budget in (0.8, 0.65)},
    "asvit accumulated": sparsight.ASViT(budget=0.65, scores="accumulated"),
    "asvit map": sparsight.ASViT(budget=0.65, completion="map"),
}


if __name__ == "__main__":
    parser = shared.parser(__doc__, "scores-cpu", 8, repeats=5)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--only", default="", help="rows with this in their name")
    given = parser.parse_args()
    model, size = encoder.load(), (given.size, given.size)
    bench = bench_of(model, ScenePictures(SceneSet(PICTURES, size, CALIBRATION_SEED)), PICTURES)
    chosen = [row for row in ROWS if given.only in row]
    plans = {row: shared.completed(bench, ROWS[row], given.work / row)[0] for row in chosen}
    arms = shared.applied(model, plans)

    def judged() -> dict[str, Any]:
        samples = SceneSamples(SceneSet(given.scenes, size, EVALUATION_SEED))
        return evaluate({row: Arm(arm) for row, arm in arms.items()}, samples)

    quality = shared.kept(given.work / "quality.json", judged, given.scenes, size, chosen)
    speed = shared.time_on(arms, [picture_of(SceneSet(1, size, MEASURING_SEED)[0])], given.repeats)
    result = [
        shared.said(plans.get(row)) | {"score": getattr(ROWS.get(row), "score", "")} | speed[row] | found
        for row, found in quality.items()
    ]
    protocol = timing.protocol(
        torch.device("cpu"), torch.float32, batch=1, repeats=given.repeats, scenes=given.scenes,
        resolution=name(size), first_seed=EVALUATION_SEED, calibration_pictures=PICTURES,
        command="python -m benchmarks.quality.scores",
    )  # fmt: skip
    shared.written(given.out, protocol, rows=result)
    for row in result:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
