"""Training a model on the project's scenes, phase by phase; what both benchmark encoders share.

A batch is a function of its seeds, and the state is saved every few minutes, so that an interrupted
training goes on from its last checkpoint.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

CHECKPOINT, CHECKPOINT_EVERY_S = "checkpoint.safetensors", 240.0


class Phase(Protocol):
    """A part of a training with one size of picture."""

    steps: int
    learning_rate: float  # at its start; falls linearly to the next phase's

    @property
    def pictures(self) -> int:
        """How many a step takes."""

    def draw(self, first_seed: int) -> tuple[torch.Tensor, ...]:
        """The batch of the pictures with the seeds from `first_seed` on."""


class Batches(torch.utils.data.Dataset):
    """The batches of a phase from `start` on, each from its own range of seeds."""

    def __init__(self, phase: Phase, first_seed: int, start: int) -> None:
        self.phase, self.first_seed, self.start = phase, first_seed, start

    def __len__(self) -> int:
        return self.phase.steps - self.start

    def __getitem__(self, step: int) -> tuple[torch.Tensor, ...]:
        return self.phase.draw(self.first_seed + (self.start + step) * self.phase.pictures)


def save(folder: Path, model: Any, optimizer: torch.optim.Optimizer, position: dict) -> None:
    """Write weights, optimizer state and position, whole or not at all."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
    save_file(tensors, folder / "next.safetensors", metadata={"position": json.dumps(position)})
    (folder / "next.safetensors").replace(folder / CHECKPOINT)


def resume(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> dict:
    """Load the last checkpoint, if there is one; returns the position to go on from."""
    path = folder / CHECKPOINT
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


def train(
    model: Any,
    phases: Sequence[Any],
    loss_of: Callable[..., torch.Tensor],
    folder: Path,
    minutes: float,
    first_seed: int,
    warmup_steps: int,
    begin: Callable[[Any], None] = lambda phase: None,
) -> bool:
    """Run the phases; stops early, checkpointed, after `minutes`.  True when the last one is done.

    `loss_of` takes the phase and a batch; `begin` is called with a phase before its first step.
    """
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)
    position = resume(folder, model, optimizer)
    began, saved, before = time.monotonic(), time.monotonic(), position["seconds"]
    total_before = 0
    for index, phase in enumerate(phases):
        last_rate = phases[index + 1].learning_rate if index + 1 < len(phases) else 0.0
        start = position["step"] if index == position["phase"] else 0
        if index >= position["phase"]:
            begin(phase)
            batches = torch.utils.data.DataLoader(
                Batches(phase, first_seed, start), batch_size=None, num_workers=1, prefetch_factor=4
            )
            for step, batch in enumerate(batches, start):
                rate = phase.learning_rate + (last_rate - phase.learning_rate) * step / phase.steps
                warm = min(1.0, (total_before + step + 1) / warmup_steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate * warm
                optimizer.zero_grad()
                loss = loss_of(phase, *batch)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                now = time.monotonic()
                position = {"phase": index, "step": step + 1, "seconds": before + now - began}
                if step % 50 == 0:
                    spent = f"{now - began:.0f} s"
                    print(f"phase {index} step {step} loss {loss.item():.4f} {spent}", flush=True)
                out_of_time = (now - began) / 60 > minutes
                if now - saved > CHECKPOINT_EVERY_S or step + 1 == phase.steps or out_of_time:
                    save(folder, model, optimizer, position)
                    saved = now
                if out_of_time:
                    return False
            save_file(model.state_dict(), folder / f"phase{index}.safetensors")
        first_seed += phase.steps * phase.pictures
        total_before += phase.steps
    return True
