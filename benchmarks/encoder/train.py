"""Train the embedded encoder on its own scenes: `python -m benchmarks.encoder.train --out runs/encoder`.

Small pictures first, then larger ones.  The early phases show the model a few windows of 8 x 8 patches
scattered over its 64 x 64 grid of positions as one sequence: far-apart tokens attend to each other from
the start, at the price of small pictures.  Only the last phases use whole pictures.  Interrupted, the
same command goes on from the last checkpoint.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.encoder import scene_training

from sparsight.demo import encoder, scenes

GRID = encoder.IMAGE_SIZE[0] // encoder.PATCH_PX
FIRST_TRAINING_SEED = 1_000_000_000  # held-out scenes have seeds far below


@dataclass(frozen=True)
class Phase:
    """`steps` steps of `batch` sequences, each of `windows` pictures of `size_px` pixels a side."""

    steps: int
    batch: int
    windows: int
    size_px: int
    learning_rate: float  # at the start of the phase; falls linearly to the next phase's

    @property
    def pictures(self) -> int:
        return self.batch * self.windows

    def draw(self, first_seed: int) -> tuple[torch.Tensor, ...]:
        """Images, labels of cells, kinds of each sequence, and where on the grid a picture lies."""
        rng = np.random.default_rng(first_seed)
        drawn = []
        for seed in range(first_seed, first_seed + self.pictures):
            # Small pictures hold more objects for their size, so that there is something to learn from.
            objects = None if self.size_px > 512 else int(rng.integers(1, 2 + self.size_px // 64))
            drawn.append(scenes.draw(seed, (self.size_px, self.size_px), objects))
        offsets = rng.integers(0, GRID - self.size_px // encoder.PATCH_PX + 1, (self.pictures, 2))
        images = torch.from_numpy(np.stack([s.image for s in drawn]))
        labels = torch.from_numpy(np.stack([s.labels[1::2, 1::2] for s in drawn])).long()
        kinds = torch.from_numpy(np.stack([s.kinds for s in drawn]))
        kinds = kinds.view(self.batch, self.windows, -1).any(1).float()
        return images, labels, kinds, torch.from_numpy(offsets)


PHASES = (
    Phase(1600, 64, 1, 128, 1e-3),
    Phase(900, 16, 4, 128, 1e-3),
    Phase(400, 4, 4, 256, 5e-4),
    Phase(160, 4, 1, 512, 3e-4),
    Phase(70, 2, 1, 1024, 1.5e-4),
    Phase(480, 16, 4, 128, 7e-4),
    Phase(80, 1, 16, 256, 4e-4),
    Phase(32, 2, 1, 1024, 1.5e-4),
)
WARMUP_STEPS = 300
BACKGROUND_WEIGHT = 0.5


def loss_of(model, images, labels, kinds, offsets, windows: int) -> torch.Tensor:
    """Cross-entropy of the cells plus that of the image labels, all windows of a sequence together."""
    pixels = (images.permute(0, 3, 1, 2).float() / 255 - encoder.MEAN[0]) / encoder.STD[0]
    x = model.patch_embed(pixels)  # (sequences * windows, h, w, dim)
    h, w = x.shape[1:3]
    table = model.pos_embed[0, 1:].view(GRID, GRID, -1)
    x = x + torch.stack([table[r : r + h, c : c + w] for r, c in offsets.tolist()])
    x = x.reshape(len(images) // windows, windows * h * w, -1)
    cls = (model.cls_token + model.pos_embed[:, :1]).expand(len(x), -1, -1)
    features = model.norm(model.blocks(torch.cat([cls, x], 1)))
    per_window = features[:, 1:].reshape(len(images), h * w, -1)
    per_window = F.pad(per_window, (0, 0, 1, 0))  # stands in for the prefix that label_map drops
    cells = encoder.label_map(model, per_window, tuple(images.shape[1:3]))
    weight = torch.ones(encoder.CLASSES)
    weight[scenes.BACKGROUND] = BACKGROUND_WEIGHT
    segmentation = F.cross_entropy(cells, labels, weight)
    return segmentation + 0.2 * F.binary_cross_entropy_with_logits(model.head(features[:, 0]), kinds)


def sincos_positions(model) -> None:
    """Start the learned positions from 2-D sines, so that nearness is there from the first step."""
    frequency = 1.0 / 100 ** (torch.arange(encoder.DIM // 4) / (encoder.DIM // 4))
    angle = torch.arange(GRID)[:, None] * frequency * np.pi / 2
    one = torch.cat([angle.sin(), angle.cos()], 1)
    table = torch.cat([one[:, None].expand(-1, GRID, -1), one[None].expand(GRID, -1, -1)], 2)
    model.pos_embed.data[0, 1:] = table.reshape(GRID * GRID, -1) * 0.5


def train(folder: Path, minutes: float) -> bool:
    """Run the phases; stops early, checkpointed, after `minutes`.  True when the last one is done."""
    model = encoder.build()
    sincos_positions(model)
    return scene_training.train(
        model, PHASES, lambda phase, *batch: loss_of(model, *batch, phase.windows), folder, minutes,
        FIRST_TRAINING_SEED, WARMUP_STEPS,
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print("done" if train(arguments.out, arguments.minutes) else "interrupted: run again to go on")
