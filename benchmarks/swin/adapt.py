"""Adapt the small Swin to dropping windows, without labels.

`python benchmarks/swin/adapt.py --out runs/swin-adapted`; interrupted, the same command goes on.  By
default the student learns the outputs of the dense model's stages, as `sparsight.adapt` does for any
model.  With `--predictions` it learns what the dense model's head makes of them.
"""

import argparse
from pathlib import Path
from typing import Any

import model as swin
import torch
import torch.nn.functional as F
from torch import Tensor

import sparsight
from sparsight.attach import identity
from sparsight.demo.evaluate import ScenePictures
from sparsight.demo.scenes import SceneSet
from sparsight.families import family_of
from sparsight.run import save_plan

SIZE_PX = 512
FIRST_SEED = 3_000_000  # apart from the scenes of training and of evaluation
SETTINGS = sparsight.Adaptation(
    steps=1200, batch=2, learning_rate=4e-4, precision="bfloat16", checkpoint_every_s=120.0
)


def predictions(teacher: Any) -> Any:
    """The divergence of the student's class map from the dense model's, as a loss."""

    def loss(student: Any, pictures: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher.segmentation(swin.stages_of(teacher, pictures)).float().log_softmax(1)
        got = student.segmentation(swin.stages_of(student, pictures)).float().log_softmax(1)
        return F.kl_div(got, wanted, log_target=True, reduction="none").sum(1).mean()

    return loss


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--predictions", action="store_true")
    arguments = parser.parse_args()
    model = swin.load(SIZE_PX)
    plan = sparsight.Plan(
        method=sparsight.SparseViT(sparsity=0.6), model=identity(model, family_of(model))
    )
    pictures = ScenePictures(SceneSet(SETTINGS.steps * SETTINGS.batch, (SIZE_PX, SIZE_PX), FIRST_SEED))
    adapted, losses = sparsight.adapt(
        model, plan, pictures, SETTINGS, arguments.out,
        loss=predictions(model) if arguments.predictions else None,
    )  # fmt: skip
    halves = {name: value.half() for name, value in adapted.weights.items()}
    save_plan(adapted.with_(weights=halves), arguments.out)
    print("first and last losses", sum(losses[:50]) / 50, sum(losses[-50:]) / 50)
