"""Adapt the small Swin to dropping windows, without labels.

`python benchmarks/swin/adapt.py --out runs/swin-adapted`; interrupted, the same command goes on.  By
default the magnitudes that rank windows are aligned with what stands out, as `sparsight.adapt` does for
any model; with `--unaligned` the loss is of the stages' outputs alone.
"""

import argparse
from pathlib import Path

import model as swin

import sparsight
from sparsight.attach import identity
from sparsight.demo.evaluate import ScenePictures
from sparsight.demo.scenes import SceneSet
from sparsight.families import family_of
from sparsight.run import save_plan
from sparsight.stages.adapt import CHECKPOINT_FILE

SIZE_PX = 512
FIRST_SEED = 3_000_000  # apart from the scenes of training and of evaluation
SETTINGS = sparsight.Adaptation(
    steps=600, batch=2, learning_rate=4e-4, precision="bfloat16", checkpoint_every_s=120.0
)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--unaligned", action="store_true")
    arguments = parser.parse_args()
    settings = SETTINGS.model_copy(update={"align": 0.0}) if arguments.unaligned else SETTINGS
    model = swin.load(SIZE_PX)
    plan = sparsight.Plan(
        method=sparsight.SparseViT(sparsity=0.6), model=identity(model, family_of(model))
    )
    pictures = ScenePictures(SceneSet(settings.steps * settings.batch, (SIZE_PX, SIZE_PX), FIRST_SEED))
    adapted, losses = sparsight.adapt(model, plan, pictures, settings, arguments.out)
    halves = {name: value.half() for name, value in adapted.weights.items()}
    save_plan(adapted.with_(weights=halves), arguments.out)
    (arguments.out / CHECKPOINT_FILE).unlink()
    print("first and last losses", sum(losses[:50]) / 50, sum(losses[-50:]) / 50)
