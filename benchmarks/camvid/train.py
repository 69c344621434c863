"""Train the embedded encoder and a segmentation head on CamVid: the real-data case.

`python -m benchmarks.camvid.train --data CAMVID --out runs/camvid`, CAMVID holding train/ and val/ with
images/ and labels/.  Neither the pictures nor what is trained on them is part of the project.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from sparsight.demo import encoder
from sparsight.demo.evaluate import Sample
from sparsight.images import to_tensor
from sparsight.stages.train import schedule

CLASSES, VOID = 11, 11
SIZE = (720, 960)  # twice the pictures' own size: 45 x 60 patches
GRID = (SIZE[0] // encoder.PATCH_PX, SIZE[1] // encoder.PATCH_PX)


@dataclass(frozen=True)
class CamVid:
    """Frames of one split with their labels, enlarged to SIZE."""

    folder: Path

    @property
    def names(self) -> list[str]:
        return sorted(p.stem for p in (self.folder / "images").iterdir())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        image = next((self.folder / "images").glob(f"{name}.*"))
        labels = next((self.folder / "labels").glob(f"{name}.*"))
        size = (SIZE[1], SIZE[0])
        picture = Image.open(image).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        truth = np.array(Image.open(labels).resize(size, Image.Resampling.NEAREST))
        return Sample(to_tensor(picture, encoder.MEAN, encoder.STD), torch.from_numpy(truth).long())


@dataclass(frozen=True)
class Phase:
    """`steps` steps of `batch` windows of `patches` patches (height, width)."""

    steps: int
    batch: int
    patches: tuple[int, int]


PHASES = (Phase(1600, 8, (16, 16)), Phase(500, 4, (24, 32)), Phase(120, 1, GRID))
LEARNING_RATE = 1e-3


def build() -> torch.nn.Module:
    """The embedded encoder with a fresh head for CamVid's classes."""
    model = encoder.load()
    torch.manual_seed(0)
    model.segmentation = torch.nn.Linear(encoder.DIM, CLASSES * encoder.CELLS**2)
    return model


def windows_of(frames: list[Sample], phase: Phase, rng: np.random.Generator):
    """Random windows, mirrored half the time: pictures, labels per cell, and places in patches."""
    pictures, labels, places = [], [], []
    for number in rng.integers(len(frames), size=phase.batch):
        picture, truth = frames[number][:2]
        if rng.uniform() < 0.5:
            picture, truth = picture.flip(2), truth.flip(1)
        row, column = (int(rng.integers(g - p + 1)) for g, p in zip(GRID, phase.patches, strict=True))
        top, left = row * encoder.PATCH_PX, column * encoder.PATCH_PX
        height, width = (p * encoder.PATCH_PX for p in phase.patches)
        gain = torch.empty(3, 1, 1).uniform_(0.8, 1.25)
        pictures.append(picture[:, top : top + height, left : left + width] * gain)
        labels.append(truth[top : top + height, left : left + width][1::2, 1::2])
        places.append((row, column))
    return torch.stack(pictures), torch.stack(labels), places


def loss_of(model, pictures, labels, places, patches, weight) -> torch.Tensor:
    """Cross-entropy of the cells; each window has the positions of its place in the whole picture."""
    x = model.patch_embed(pictures)
    old = model.patch_embed.grid_size
    positions = resample_abs_pos_embed(model.pos_embed, GRID, old, num_prefix_tokens=1)
    table = positions[0, 1:].view(*GRID, -1)
    h, w = patches
    x = x + torch.stack([table[r : r + h, c : c + w] for r, c in places])
    cls = (model.cls_token + positions[:, :1]).expand(len(x), -1, -1)
    features = model.norm(model.blocks(torch.cat([cls, x.flatten(1, 2)], 1)))
    cells = encoder.label_map(model, features, tuple(pictures.shape[2:]))
    return F.cross_entropy(cells, labels, weight, ignore_index=VOID)


def train(data: Path, out: Path) -> None:
    """All phases; the weights are written to `out`/camvid.safetensors."""
    torch.manual_seed(0)
    rng, model = np.random.default_rng(0), build()
    split = CamVid(data / "train")
    frames = [split[i] for i in range(len(split))]
    counts = torch.stack([torch.bincount(f.labels.flatten(), minlength=12)[:11] for f in frames]).sum(0)
    weight = (counts.sum() / counts.clamp_min(1)).sqrt()
    weight = weight / weight.mean()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    total, done = sum(phase.steps for phase in PHASES), 0
    for phase in PHASES:
        for step in range(phase.steps):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * schedule(done, total)
            pictures, labels, places = windows_of(frames, phase, rng)
            loss = loss_of(model, pictures, labels, places, phase.patches, weight)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            done += 1
            if step % 50 == 0:
                print(f"{phase.patches} step {step} loss {loss.item():.4f}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out / "camvid.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/camvid"))
    arguments = parser.parse_args()
    train(arguments.data, arguments.out)
