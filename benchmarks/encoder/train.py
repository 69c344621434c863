"""Train the embedded encoder on its own scenes: `python benchmarks/encoder/train.py --out runs/encoder`.

Small pictures first, then larger ones.  The early phases show the model a few windows of 8 x 8 patches
scattered over its 64 x 64 grid of positions as one sequence: far-apart tokens attend to each other from
the start, at the price of small pictures.  Only the last phases use whole pictures.  Interrupted, the
same command goes on from the last checkpoint.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

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
CHECKPOINT_EVERY_S = 240.0


class Batches(torch.utils.data.Dataset):
    """Batch i of the whole training, drawn from its own range of seeds."""

    def __init__(self, phase: Phase, first_seed: int, start: int) -> None:
        self.phase, self.first_seed, self.start = phase, first_seed, start

    def __len__(self) -> int:
        return self.phase.steps - self.start

    def __getitem__(self, step: int) -> tuple[torch.Tensor, ...]:
        phase, count = self.phase, self.phase.batch * self.phase.windows
        first = self.first_seed + (self.start + step) * count
        rng = np.random.default_rng(first)
        drawn = []
        for seed in range(first, first + count):
            # Small pictures hold more objects for their size, so that there is something to learn from.
            objects = None if phase.size_px > 512 else int(rng.integers(1, 2 + phase.size_px // 64))
            drawn.append(scenes.draw(seed, (phase.size_px, phase.size_px), objects))
        offsets = rng.integers(0, GRID - phase.size_px // encoder.PATCH_PX + 1, (count, 2))
        images = torch.from_numpy(np.stack([s.image for s in drawn]))
        labels = torch.from_numpy(np.stack([s.labels[1::2, 1::2] for s in drawn])).long()
        kinds = torch.from_numpy(np.stack([s.kinds for s in drawn]))
        kinds = kinds.view(phase.batch, phase.windows, -1).any(1).float()
        return images, labels, kinds, torch.from_numpy(offsets)


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


def save(folder: Path, model, optimizer, position: dict) -> None:
    """Write weights, optimizer state and position; the position last, so that a kill loses nothing."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
    save_file(tensors, folder / "next.safetensors", metadata={"position": json.dumps(position)})
    (folder / "next.safetensors").replace(folder / "checkpoint.safetensors")


def resume(folder: Path, model, optimizer) -> dict:
    """Load the last checkpoint, if there is one; returns the position to go on from."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        sincos_positions(model)
        return {"phase": 0, "step": 0, "seconds": 0.0}
    from safetensors import safe_open

    with safe_open(path, "pt") as handle:
        position = json.loads(handle.metadata()["position"])
    tensors = load_file(path)
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    state = optimizer.state_dict()
    for key in (k for k in tensors if k.startswith("optimizer.")):
        _, index, name = key.split(".")
        state["state"].setdefault(int(index), {})[name] = tensors[key]
    optimizer.load_state_dict(state)
    return position


def train(folder: Path, minutes: float) -> bool:
    """Run the phases; stops early, checkpointed, after `minutes`.  True when the last one is done."""
    model = encoder.build()
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)
    position = resume(folder, model, optimizer)
    began, saved, before = time.monotonic(), time.monotonic(), position["seconds"]
    first_seed = FIRST_TRAINING_SEED
    total_before = 0
    for index, phase in enumerate(PHASES):
        last_rate = PHASES[index + 1].learning_rate if index + 1 < len(PHASES) else 0.0
        start = position["step"] if index == position["phase"] else 0
        if index >= position["phase"]:
            batches = torch.utils.data.DataLoader(
                Batches(phase, first_seed, start), batch_size=None, num_workers=1, prefetch_factor=4
            )
            for step, batch in enumerate(batches, start):
                rate = phase.learning_rate + (last_rate - phase.learning_rate) * step / phase.steps
                warm = min(1.0, (total_before + step + 1) / WARMUP_STEPS)
                for group in optimizer.param_groups:
                    group["lr"] = rate * warm
                optimizer.zero_grad()
                loss = loss_of(model, *batch, phase.windows)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                now = time.monotonic()
                position = {"phase": index, "step": step + 1, "seconds": before + now - began}
                if step % 50 == 0:
                    print(
                        f"phase {index} step {step} loss {loss.item():.4f} {now - began:.0f} s",
                        flush=True,
                    )
                if now - saved > CHECKPOINT_EVERY_S or step + 1 == phase.steps:
                    save(folder, model, optimizer, position)
                    saved = now
                if (now - began) / 60 > minutes:
                    save(folder, model, optimizer, position)
                    return False
            save_file(model.state_dict(), folder / f"phase{index}.safetensors")
        first_seed += phase.steps * phase.batch * phase.windows
        total_before += phase.steps
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print("done" if train(arguments.out, arguments.minutes) else "interrupted: run again to go on")
