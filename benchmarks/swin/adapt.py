"""Adapt the small Swin to dropping windows, without labels.

`python -m benchmarks.swin.adapt --completed --out runs/swin-adapted` completes first (score: how far a
token stands out, at 60 % dropped everywhere) and adapts the weights with the maps in place; when it is
done, the plan stands in benchmarks/swin/weights/adapted, in float16.  Without `--completed` it is the
paper's: magnitudes rank, and nothing is left in the place of what is skipped.  Interrupted, the same
command goes on.
"""

import argparse
from pathlib import Path

from benchmarks.swin import model as swin

import sparsight
from sparsight.attach import as_plan
from sparsight.demo.evaluate import ScenePictures
from sparsight.demo.scenes import SceneSet
from sparsight.families import family_of
from sparsight.identity import identity
from sparsight.plan import Plan
from sparsight.run import save_plan
from sparsight.stages.adapt import CHECKPOINT_FILE
from sparsight.stages.bench import bench_of
from sparsight.stages.complete import complete

SIZE_PX, COMPLETING_PX = 512, 1024
FIRST_SEED, COMPLETING_SEED = 3_000_000, 3_500_000  # apart from the scenes of training and of evaluation
PICTURES = 8
SETTINGS = sparsight.Adaptation(
    steps=600, batch=2, learning_rate=4e-4, precision="bfloat16", checkpoint_every_s=120.0
)


def completed(config: sparsight.SparseViT, size_px: int) -> Plan:
    """A plan of these settings with its maps, in seconds."""
    pictures = ScenePictures(SceneSet(PICTURES, (size_px, size_px), COMPLETING_SEED))
    return complete(bench_of(swin.load(size_px), pictures, PICTURES), as_plan(config))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--completed", action="store_true")
    parser.add_argument("--install", type=Path, help="[default: swin/weights/adapted, if --completed]")
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    given = parser.parse_args()
    settings, config = (
        SETTINGS.model_copy(update={"steps": given.steps}),
        sparsight.SparseViT(sparsity=0.6),
    )
    model = swin.load(SIZE_PX)
    plan = completed(config.completed(), COMPLETING_PX) if given.completed else as_plan(config)
    plan = plan.with_(model=identity(model, family_of(model)))
    pictures = ScenePictures(SceneSet(settings.steps * settings.batch, (SIZE_PX, SIZE_PX), FIRST_SEED))
    given.out.mkdir(parents=True, exist_ok=True)
    adapted, losses = sparsight.adapt(model, plan, pictures, settings, given.out)
    halves = adapted.with_(weights={name: value.half() for name, value in adapted.weights.items()})
    where = given.install or (swin.WEIGHTS / "adapted" if given.completed else given.out)
    save_plan(halves, where)
    (given.out / CHECKPOINT_FILE).unlink()
    print("first and last losses", sum(losses[:50]) / 50, sum(losses[-50:]) / 50)
