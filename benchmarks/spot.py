"""SPOT on the embedded encoder: speed and quality at several rho, from one training.

`python benchmarks/spot.py --train` trains the networks (minutes) into the package's weights; without it
they are judged on held-out scenes, and the result goes to benchmarks/results/spot-cpu.json.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import torch

import sparsight
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
from sparsight.stages.measure import fused
from sparsight.stages.relevance import CHECKPOINT_FILE, RelevanceTraining, fit_relevance

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "src" / "sparsight" / "demo" / "weights" / RELEVANCE
TRAINING = RelevanceTraining(steps=500)
TRAINING_SCENES, TRAINING_SIZE = 512, (512, 512)  # small, to be quick; the statistics know no size
SIZE = (1024, 1024)
RHOS = (0.9, 0.8, 0.7, 0.6)


def trained(model: Any, run: Path) -> Plan:
    """The networks, trained without labels on scenes of their own; goes on where it was stopped."""
    run.mkdir(parents=True, exist_ok=True)
    pictures = ScenePictures(SceneSet(TRAINING_SCENES, TRAINING_SIZE, CALIBRATION_SEED))
    plan, losses = fit_relevance(model, Plan(method=sparsight.SPOT()), pictures, TRAINING, run)
    print([round(sum(losses[at : at + 50]) / 50, 4) for at in range(0, len(losses), 50)])
    return plan.with_(versions=timing.versions(), source="demo")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "spot")
    arguments = parser.parse_args()
    model = encoder.load()
    if arguments.train:
        save_plan(trained(model, arguments.run), WEIGHTS)
        (arguments.run / CHECKPOINT_FILE).unlink()
