"""Distil: adapt a model to its own sparse attention, without labels (SVE, Sec. 4.2).

    O_i = SparseAttention(Q_i, K_i, V_i, m_i), computed from the student's own O_(i-1)      (Eq. 10-13)
    L_distill = sum over i in S of ||O_i - O_i^(t)||^2                                      (Eq. 14)

Paper's symbol = name here: O_i = output of block i; t = teacher, the dense model; S = the plan's layers.
Our choice where the paper is silent: each layer's term is divided by ||O_i^(t)||^2, so that layers whose
tokens are large do not drown the others; tokens that stand out in the teacher's features weigh more, or
a few objects on a wide background are given up for the background (see docs/sve.md); AdamW
with a warm-up and a cosine; a learning rate that falls with the model's width.  The ranking is done by
the scorer that will run (or by several in turn): weights adapted under exact maps lose most of the gain
under another scorer.
"""

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsight.attach import apply, family_in
from sparsight.errors import NotFiniteError
from sparsight.images import Images, Reader
from sparsight.methods.sve.block import SparseBlock
from sparsight.ops.fidelity import relative_square, salience
from sparsight.plan import Data, Plan
from sparsight.stages.checkpoint import Checkpoint
from sparsight.stages.observe import outputs_of
from sparsight.stages.progress import track

if TYPE_CHECKING:
    from accelerate import Accelerator

Scorer = Literal["exact", "sampled", "linear"]


class Distillation(Data):
    """Settings of the distillation; the defaults work without tuning."""

    steps: Annotated[int, Field(ge=1)] = 300
    batch: Annotated[int, Field(ge=1)] = 1  # pictures per process and step
    learning_rate: Annotated[float, Field(gt=0)] | None = None  # None: 0.025 / width
    train: Literal["blocks", "all"] = "blocks"  # the sparse layers' weights, or every weight
    scorers: tuple[Scorer, ...] = ()  # used in turn, one a step; none: the plan's
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    checkpoint_every_s: Annotated[float, Field(ge=0)] = 60.0


class LayerwiseLoss(nn.Module):
    """The student with its loss as forward pass, so that gradients are shared between processes."""

    student: nn.Module

    def __init__(self, student: nn.Module, teacher: nn.Module, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.student, self.layers = student, layers
        self.teachers = (teacher,)  # not a child: neither trained nor wrapped

    def forward(self, images: Tensor) -> Tensor:
        """Eq. 14, each term relative to the teacher's square, tokens weighted; mean of the batch."""
        family = family_in(self.student)
        prefix = family.prefix_tokens(self.student)
        with torch.no_grad(), outputs_of(self.teachers[0], self.layers) as wanted:
            weights = salience(family.features(self.teachers[0], images), prefix)
        with outputs_of(self.student, self.layers) as got:
            family.features(self.student, images)
        terms = []
        for layer in self.layers:
            ours, its = got[layer].flatten(1, -2), wanted[layer].flatten(1, -2)
            # A layer on another grid than the final features (as in Hiera) is weighed by its own tokens.
            same = its.shape[1] == weights.shape[1]
            terms.append(relative_square(ours, its, weights if same else salience(its, prefix)))
        return torch.stack(terms).sum(0).mean()


def distil(
    model: nn.Module,
    plan: Plan,
    images: Images,
    settings: Distillation | None = None,
    folder: Path | None = None,
) -> tuple[Plan, list[float]]:
    """Adapt `model` to `plan`; returns the plan with the changed weights, and the loss of every step.

    `model` itself is the teacher and stays as it is.  With a `folder` the state is saved every minute,
    at an interrupt and at the end, and the same call goes on from there to the same weights; remove
    its checkpoint when the plan is safe.  Run under `accelerate launch`, every process takes its
    share of each step's pictures.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    settings = settings or Distillation()
    accelerator = Accelerator(
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
    )
    teacher = model.to(accelerator.device).eval()
    sparse = plan.with_(method=plan.method.at_any_size())
    student = apply(copy.deepcopy(teacher), sparse)
    layers = plan.method.named_layers
    trained = _trainable(student, layers, settings.train)
    _let_checkpoint(student)
    family = family_in(student)
    width = max(family.dim(block) for block in family.blocks(student))
    rate = settings.learning_rate or 0.025 / width
    optimizer = torch.optim.AdamW(list(trained.values()), lr=rate, weight_decay=0.0)
    checkpoint = Checkpoint(
        folder,
        [plan.to_json(), settings.model_dump(mode="json")],
        trained,
        optimizer,
        settings.checkpoint_every_s,
    )
    losses = checkpoint.resume()
    loss_of, optimizer = accelerator.prepare(LayerwiseLoss(student, teacher, layers), optimizer)

    order, reader = _Order(len(images), settings.seed), Reader(images)
    scorers = settings.scorers or (plan.method.scorer,)
    steps = range(len(losses), settings.steps)
    try:
        for step in track(steps, "Distilling", len(steps)):
            _set_scorer(student, scorers[step % len(scorers)])
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(step, settings.steps)
            batch = _batch(reader, order, step, settings.batch, accelerator)
            autocast = torch.autocast(
                accelerator.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"
            )
            with autocast:
                loss = loss_of(batch)
            if not torch.isfinite(loss):
                raise NotFiniteError(
                    f"the distillation loss became {loss.item()} at step {step}: lower learning_rate "
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
    changed = {f"model.{name}": p.detach().cpu().clone() for name, p in trained.items()}
    recipe = plan.recipe | {"distillation": settings.model_dump(mode="json")}
    return plan.with_(weights=changed, recipe=recipe), losses


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first twentieth, then a cosine down to nothing."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _trainable(student: nn.Module, layers: tuple[int, ...], train: str) -> dict[str, nn.Parameter]:
    """The parameters that learn, by state-dict key; all others are frozen."""
    blocks = family_in(student).blocks(student)
    chosen = {id(p) for layer in layers for p in blocks[layer].parameters()}
    trained: dict[str, nn.Parameter] = {}
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(train == "all" or id(parameter) in chosen)
        if parameter.requires_grad:
            trained[name] = parameter
    return trained


def _let_checkpoint(student: nn.Module) -> None:
    """transformers' blocks checkpoint gradients, if that was enabled, only when in training mode.

    The mode is set on the blocks alone, so that dropout and drop path inside them stay off.
    """
    for block in family_in(student).blocks(student):
        if getattr(block, "gradient_checkpointing", False):
            block.training = True


def _set_scorer(student: nn.Module, scorer: Scorer) -> None:
    for block in family_in(student).blocks(student):
        if isinstance(block, SparseBlock):
            block.config = block.config.model_copy(update={"scorer": scorer})


def _batch(reader: Reader, order: "_Order", step: int, size: int, accelerator: "Accelerator") -> Tensor:
    """This process's pictures of one step: a function of the step alone, so that resuming is exact."""
    first = (step * accelerator.num_processes + accelerator.process_index) * size
    pictures = [reader.read(order[first + i]) for i in range(size)]
    return torch.stack(pictures).to(accelerator.device)


class _Order:
    """Endless passes over `count` pictures, each in an order of its own; place i is a function of i."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch, self.order = count, seed, -1, torch.empty(0)

    def __getitem__(self, place: int) -> int:
        epoch, within = divmod(place, self.count)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.epoch, self.order = epoch, torch.randperm(self.count, generator=generator)
        return int(self.order[within])
