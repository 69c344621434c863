"""Train the small Swin on the project's scenes: `python benchmarks/swin/train.py --out runs/swin`.

Small pictures first, then larger ones; the weights do not depend on the size.  The smallest are 256 px,
where the last stage is just one window.  Interrupted, the same command goes on from the last checkpoint.
When it is done, the weights stand in benchmarks/swin/weights, in float16.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import model as swin
import numpy as np
import torch
import torch.nn.functional as F
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


PHASES = (
    Phase(1500, 8, 256, 1.2e-3),
    Phase(400, 2, 512, 5e-4),
    Phase(100, 1, 1024, 1e-4),
)
WARMUP_STEPS = 200
BACKGROUND_WEIGHT = 0.5
CHECKPOINT_EVERY_S = 120.0


class Batches(torch.utils.data.Dataset):
    """Batch i of a phase, drawn from its own range of seeds."""

    def __init__(self, phase: Phase, first_seed: int, start: int) -> None:
        self.phase, self.first_seed, self.start = phase, first_seed, start

    def __len__(self) -> int:
        return self.phase.steps - self.start

    def __getitem__(self, step: int) -> tuple[torch.Tensor, ...]:
        size, count = self.phase.size_px, self.phase.batch
        first = self.first_seed + (self.start + step) * count
        rng = np.random.default_rng(first)
        drawn = []
        for seed in range(first, first + count):
            # Small pictures hold more objects for their size, so that there is something to learn from.
            objects = None if size > 512 else int(rng.integers(2, 3 + size // 64))
            drawn.append(scenes.draw(seed, (size, size), objects))
        images = torch.from_numpy(np.stack([s.image for s in drawn])).permute(0, 3, 1, 2)
        labels = torch.from_numpy(np.stack([s.labels[1::2, 1::2] for s in drawn])).long()
        return (images.float() / 255 - encoder.MEAN[0]) / encoder.STD[0], labels


def loss_of(model: Any, pictures: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the cells."""
    weight = torch.ones(encoder.CLASSES)
    weight[scenes.BACKGROUND] = BACKGROUND_WEIGHT
    with torch.autocast("cpu", torch.bfloat16):
        cells = model.segmentation(swin.stages_of(model, pictures))
    return F.cross_entropy(cells.float(), labels, weight)


def save(folder: Path, model: Any, optimizer: torch.optim.Optimizer, position: dict) -> None:
    """Write weights, optimizer state and position, whole or not at all."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
    save_file(tensors, folder / "next.safetensors", metadata={"position": json.dumps(position)})
    (folder / "next.safetensors").replace(folder / "checkpoint.safetensors")


def resume(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> dict:
    """Load the last checkpoint, if there is one; returns the position to go on from."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return {"phase": 0, "step": 0, "seconds": 0.0}
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
    model = swin.build(PHASES[0].size_px)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)
    position = resume(folder, model, optimizer)
    began, saved, before = time.monotonic(), time.monotonic(), position["seconds"]
    first_seed, total_before = FIRST_TRAINING_SEED, 0
    for index, phase in enumerate(PHASES):
        if index >= position["phase"]:
            last_rate = PHASES[index + 1].learning_rate if index + 1 < len(PHASES) else 0.0
            start = position["step"] if index == position["phase"] else 0
            model.set_input_size((phase.size_px, phase.size_px), window_size=swin.WINDOW)
            batches = torch.utils.data.DataLoader(
                Batches(phase, first_seed, start), batch_size=None, num_workers=1, prefetch_factor=4
            )
            for step, batch in enumerate(batches, start):
                rate = phase.learning_rate + (last_rate - phase.learning_rate) * step / phase.steps
                warm = min(1.0, (total_before + step + 1) / WARMUP_STEPS)
                for group in optimizer.param_groups:
                    group["lr"] = rate * warm
                optimizer.zero_grad()
                loss = loss_of(model, *batch)
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
                out_of_time = (now - began) / 60 > minutes
                if now - saved > CHECKPOINT_EVERY_S or step + 1 == phase.steps or out_of_time:
                    save(folder, model, optimizer, position)
                    saved = now
                if out_of_time:
                    return False
        first_seed += phase.steps * phase.batch
        total_before += phase.steps
    return True


def install(folder: Path) -> None:
    """Put the weights where the benchmark looks for them, and beside them how they were trained."""
    with safe_open(folder / "checkpoint.safetensors", "pt") as handle:
        position = json.loads(handle.metadata()["position"])
    tensors = load_file(folder / "checkpoint.safetensors")
    weights = {k[6:]: value.half() for k, value in tensors.items() if k.startswith("model.")}
    swin.WEIGHTS.mkdir(exist_ok=True)
    save_file(weights, swin.WEIGHTS / "swin.safetensors")
    facts = {
        "command": "python benchmarks/swin/train.py --out runs/swin",
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
