"""Train: a loop whose every step is a function of the step's number, so that resuming is exact.

AdamW with a warm-up and a cosine, gradients clipped to norm 1, in one process or in several started by
`accelerate launch`, each with its share of every step's pictures.
"""

import copy
import math
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Generic, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsight.data import Count, Data, Seed
from sparsight.errors import ImagesError, NotFiniteError
from sparsight.images import Item, Reader
from sparsight.stages.checkpoint import Checkpoint
from sparsight.stages.patience import Patience
from sparsight.stages.progress import track

if TYPE_CHECKING:
    from accelerate import Accelerator


class Training(Data):
    """Settings of any training."""

    batch: Count = 1  # pictures per process and step
    # None: what suits the model's width
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Seed = 0
    checkpoint_every_s: Annotated[float, Field(ge=0)] = 60.0


class Stepwise(Training):
    """Settings of a training of so many steps."""

    steps: Count = 300


def in_float32(model: nn.Module) -> nn.Module:
    """`model`, or a copy if it is in half precision, which does not resolve a training's steps."""
    halves = (torch.float16, torch.bfloat16)
    if not any(p.dtype in halves for p in model.parameters()):
        return model
    return copy.deepcopy(model).float()


def processes() -> "Accelerator":
    """This process's part of a training: its device, and what it shares with the others."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    return Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])


def train(
    accelerator: "Accelerator",
    loss_of: nn.Module,
    trained: dict[str, nn.Parameter],
    batch_of: Callable[[int], tuple[Tensor, ...]],
    settings: Training,
    steps: int | None,
    rate: float,
    what: str,
    file: Path | None,
    recipe: object,
    patience: Patience | None = None,
) -> list[float]:
    """Minimise `loss_of(*batch_of(step))` over `trained`, in place; returns the loss of every step.

    `rate` is the highest learning rate, `what` the name of the work in messages.  With a `file` the
    state is saved in it every minute, at an interrupt and at the end, and a call with the same `recipe`
    goes on from there to the same weights.  How long it takes is said by `steps`, or by `patience`.
    """
    optimizer = torch.optim.AdamW(list(trained.values()), lr=rate, weight_decay=0.0)
    checkpoint = Checkpoint(
        file, what, recipe, trained, optimizer, settings.checkpoint_every_s, patience
    )
    losses = checkpoint.resume()
    loss_of, optimizer = accelerator.prepare(loss_of, optimizer)
    first = len(losses)
    todo = count(first) if steps is None else range(first, steps)
    try:
        for step in track(todo, what.capitalize(), None if steps is None else max(0, steps - first)):
            if patience is not None and patience.over(step):
                break
            share = patience.rate_at(step) if steps is None and patience else schedule(step, steps or 1)
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            batch = batch_of(step)
            autocast = torch.autocast(
                accelerator.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"
            )
            with autocast:
                loss = loss_of(*batch)
            if not torch.isfinite(loss):
                raise NotFiniteError(
                    f"the loss of the {what} became {loss.item()} at step {step}: lower learning_rate "
                    f"(it was {rate:.2g})"
                )
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(list(trained.values()), 1.0)
            optimizer.step()
            losses.append(accelerator.reduce(loss.detach(), "mean").item())
            if accelerator.is_main_process:
                checkpoint.save(losses, now=False)
    finally:
        if accelerator.is_main_process:
            checkpoint.save(losses, now=True)
    return losses


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first twentieth, then a cosine down to nothing."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


class Batches(Generic[Item]):
    """Endless passes over pictures, each in an order of its own; a batch is a function of its step."""

    def __init__(self, reader: Reader[Item], settings: Training, accelerator: "Accelerator") -> None:
        self.reader, self.seed = reader, settings.seed
        self.size, self.rank = settings.batch, accelerator.process_index
        self.stride = settings.batch * accelerator.num_processes
        self.epoch, self.order = -1, torch.empty(0, device="cpu")

    def __call__(self, step: int) -> list[Item]:
        """This process's pictures of one step."""
        first = step * self.stride + self.rank * self.size
        found = [self.reader.read(self._picture(first + place)) for place in range(self.size)]
        sizes = {
            tuple(getattr(item[0] if isinstance(item, tuple) else item, "shape", ())) for item in found
        }
        if len(sizes) > 1:
            raise ImagesError(
                f"pictures of one batch differ in size, {sorted(sizes)}: train with batch=1"
            )
        return found

    def _picture(self, place: int) -> int:
        epoch, within = divmod(place, len(self.reader.images))
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.epoch = epoch
            self.order = torch.randperm(len(self.reader.images), generator=generator, device="cpu")
        return int(self.order[within])
