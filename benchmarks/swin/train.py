"""Train the small Swin on the project's scenes: `python -m benchmarks.swin.train --out runs/swin`.

Small pictures first, then larger ones; the weights do not depend on the size.  The smallest are 256 px,
where the last stage is just one window.  Interrupted, the same command goes on from the last checkpoint.
When it is done, the weights stand in benchmarks/swin/weights, in float16.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.encoder import scene_training
from benchmarks.swin import model as swin
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sparsight.demo import encoder, scenes
from sparsight.files import write_json
from sparsight.stages import timing

FIRST_TRAINING_SEED = 1_500_000_000  # held-out scenes have seeds far below


@dataclass(frozen=True)
class Phase:
    """`steps` steps of `batch` pictures of `size_px` pixels a side."""

    steps: int
    batch: int
    size_px: int
    learning_rate: float  # at the start of the phase; falls linearly to the next phase's

    @property
    def pictures(self) -> int:
        return self.batch

    def draw(self, first_seed: int) -> tuple[torch.Tensor, ...]:
        """Normalised pictures and the labels of their cells."""
        rng, size = np.random.default_rng(first_seed), self.size_px
        drawn = []
        for seed in range(first_seed, first_seed + self.batch):
            # Small pictures hold more objects for their size, so that there is something to learn from.
            objects = None if size > 512 else int(rng.integers(2, 3 + size // 64))
            drawn.append(scenes.draw(seed, (size, size), objects))
        images = torch.from_numpy(np.stack([s.image for s in drawn])).permute(0, 3, 1, 2)
        labels = torch.from_numpy(np.stack([s.labels[1::2, 1::2] for s in drawn])).long()
        return (images.float() / 255 - encoder.MEAN[0]) / encoder.STD[0], labels


PHASES = (
    Phase(1500, 8, 256, 1.2e-3),
    Phase(400, 2, 512, 5e-4),
    Phase(100, 1, 1024, 1e-4),
)
WARMUP_STEPS = 200
BACKGROUND_WEIGHT = 0.5


def loss_of(model: Any, pictures: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the cells."""
    weight = torch.ones(encoder.CLASSES)
    weight[scenes.BACKGROUND] = BACKGROUND_WEIGHT
    with torch.autocast("cpu", torch.bfloat16):
        cells = model.segmentation(swin.stages_of(model, pictures))
    return F.cross_entropy(cells.float(), labels, weight)


def train(folder: Path, minutes: float) -> bool:
    """Run the phases; stops early, checkpointed, after `minutes`.  True when the last one is done."""
    model = swin.build(PHASES[0].size_px)

    def begin(phase: Phase) -> None:
        model.set_input_size((phase.size_px, phase.size_px), window_size=swin.WINDOW)

    return scene_training.train(
        model, PHASES, lambda phase, *batch: loss_of(model, *batch), folder, minutes,
        FIRST_TRAINING_SEED, WARMUP_STEPS, begin,
    )  # fmt: skip


def install(folder: Path) -> None:
    """Put the weights where the benchmark looks for them, and beside them how they were trained."""
    with safe_open(folder / scene_training.CHECKPOINT, "pt") as handle:
        position = json.loads(handle.metadata()["position"])
    tensors = load_file(folder / scene_training.CHECKPOINT)
    weights = {k[6:]: value.half() for k, value in tensors.items() if k.startswith("model.")}
    swin.WEIGHTS.mkdir(exist_ok=True)
    save_file(weights, swin.WEIGHTS / "swin.safetensors")
    facts = {
        "command": "python -m benchmarks.swin.train --out runs/swin",
        "parameters": sum(value.numel() for value in weights.values()),
        "trained_seconds": round(position["seconds"]),
        "machine": timing.machine(torch.device("cpu")),
        "versions": timing.versions(),
        "seed": 0,
    }
    write_json(swin.WEIGHTS / "swin.json", facts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if train(arguments.out, arguments.minutes):
        install(arguments.out)
    else:
        print("interrupted: run again to go on")
