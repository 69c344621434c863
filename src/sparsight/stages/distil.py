"""Distil: adapt a model to its own sparse attention, without labels (SVE, Sec. 4.2).

    O_i = SparseAttention(Q_i, K_i, V_i, m_i), computed from the student's own O_(i-1)      (Eq. 10-13)
    L_distill = sum over i in S of ||O_i - O_i^(t)||^2                                      (Eq. 14)
                + a ||F - F^(t)||^2                     ours; a = `final`, F = the final features

Paper's symbol = name here: O_i = output of block i; t = teacher, the dense model; S = the plan's layers.
Our choice where the paper is silent: each layer's term is divided by ||O_i^(t)||^2, so that layers whose
tokens are large do not drown the others; tokens that stand out in the teacher's features weigh more, or
a few objects on a wide background are given up for the background (see docs/sve.md); AdamW
with a warm-up and a cosine; a learning rate that falls with the model's width.  The ranking is done by
the score that will run (or by several in turn): weights adapted under exact maps lose most of the gain
under another.  Maps that complete the attention are in place, and stay as they are.
"""

import copy
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sparsight.attach import apply, family_in
from sparsight.data import Count
from sparsight.images import Images, Reader
from sparsight.methods.sve.attention import SparseAttention
from sparsight.ops.fidelity import relative_square, salience
from sparsight.plan import Plan
from sparsight.stages.heldout import HeldOut, Some, held_out
from sparsight.stages.observe import outputs_of
from sparsight.stages.patience import Patience
from sparsight.stages.train import Batches, Training, in_float32, processes, train

CHECKPOINT_FILE = "distillation.safetensors"  # the state of an unfinished one, in the run's folder
Score = Literal["exact", "sampled", "linear"]


class Distillation(Training):
    """Settings of the distillation; the defaults work without tuning.

    It ends by itself when the relative error of the final features, weighted by salience, no longer
    falls on pictures that are held out (patience.py); or after `steps`, and then none are held out.
    """

    steps: Count | None = None
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # at most, without `steps`
    held_out: Annotated[float, Field(gt=0, lt=1)] = 1 / 8  # of the pictures, up to HELD_OUT of them
    patience: Count = 3  # checks of the error in a row that it need not fall in
    final: Annotated[float, Field(ge=0)] = 1.0  # weight of the final features in the loss; the paper: 0
    train: Literal["blocks", "all"] = "blocks"  # the sparse layers' weights, or every weight
    scores: tuple[Score, ...] = ()  # used in turn, one a step; none: the plan's

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.steps is not None and self.minutes is not None:
            raise ValueError("steps say how long it takes: leave out steps, or minutes")
        return self


class LayerwiseLoss(nn.Module):
    """The student with its loss as forward pass, so that gradients are shared between processes."""

    student: nn.Module

    def __init__(
        self, student: nn.Module, teacher: nn.Module, layers: tuple[int, ...], final: float
    ) -> None:
        super().__init__()
        self.student, self.layers, self.final = student, layers, final
        self.teachers = (teacher,)  # not a child: neither trained nor wrapped

    def forward(self, images: Tensor) -> Tensor:
        """Each term relative to the teacher's square, tokens weighted by salience; mean of the batch."""
        family = family_in(self.student)
        prefix = family.prefix_tokens(self.student)
        with torch.no_grad(), outputs_of(self.teachers[0], self.layers) as wanted:
            goal = family.features(self.teachers[0], images)
            weights = salience(goal, prefix)
        with outputs_of(self.student, self.layers) as got:
            end = family.features(self.student, images)
        terms = []
        for layer in self.layers:
            ours, its = got[layer].flatten(1, -2), wanted[layer].flatten(1, -2)
            # A layer on another grid than the final features (as in Hiera) is weighed by its own tokens.
            same = its.shape[1] == weights.shape[1]
            terms.append(relative_square(ours, its, weights if same else salience(its, prefix)))
        if self.final:
            terms.append(self.final * relative_square(end, goal, weights))
        return torch.stack(terms).sum(0).mean()


def distil(
    model: nn.Module,
    plan: Plan,
    images: Images,
    settings: Distillation | None = None,
    folder: Path | None = None,
) -> tuple[Plan, list[float]]:
    """Adapt `model` to `plan`; returns the plan with the changed weights, and the loss of every step.

    A plan with maps is adapted as it will run: they are in place from the first step on.
    `model` itself is the teacher and stays as it is.  With a `folder` the state is saved every minute,
    at an interrupt and at the end, and the same call goes on from there to the same weights; remove
    its checkpoint when the plan is safe.  Run under `accelerate launch`, every process takes its
    share of each step's pictures.
    """
    settings = settings or Distillation()
    accelerator = processes()
    teacher = in_float32(model).to(accelerator.device).eval()
    student = apply(copy.deepcopy(teacher), plan.at_any_size())
    layers = plan.sve.named_layers
    trained = trainable(student, layers, settings.train)
    _let_checkpoint(student)
    family = family_in(student)
    width = max(family.dim(block) for block in family.blocks(student))
    scores: tuple[str, ...] = settings.scores or (plan.sve.score,)
    held, rest = (Some(images, places) for places in held_out(len(images), settings))
    pictures = Batches(Reader(rest), settings, accelerator)
    patience = None
    if len(held):
        judge = HeldOut(student, teacher, held, accelerator)

        def error() -> float:
            _set_score(student, plan.sve.score)  # as it will run
            return judge.error()

        patience = Patience(error, trained, settings.patience, settings.minutes, judge.mean)

    def batch_of(step: int) -> tuple[Tensor]:
        _set_score(student, scores[step % len(scores)])
        return (torch.stack(pictures(step)).to(next(teacher.parameters())),)

    losses = train(
        accelerator, LayerwiseLoss(student, teacher, layers, settings.final), trained, batch_of,
        settings, settings.steps, rate=settings.learning_rate or 0.025 / width, what="distillation",
        file=folder / CHECKPOINT_FILE if folder else None,
        recipe=[plan.to_json(), settings.model_dump(mode="json")], patience=patience,
    )  # fmt: skip
    changed = {f"model.{name}": p.detach().cpu().clone() for name, p in trained.items()}
    told = settings.model_dump(mode="json")
    if patience is not None:
        told["ending"] = patience.told() | {"pictures": len(held)}
    recipe = plan.recipe | {"distillation": told}
    return plan.with_(weights=changed, recipe=recipe), losses


def trainable(student: nn.Module, layers: tuple[int, ...], train: str) -> dict[str, nn.Parameter]:
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


def _set_score(student: nn.Module, score: str) -> None:
    for part in student.modules():
        if isinstance(part, SparseAttention):
            site = part._sparsight
            site.config = site.config.model_copy(update={"score": score})
