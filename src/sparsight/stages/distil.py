"""Distil: adapt a model to its own sparse attention, without labels (SVE, Sec. 4.2).

    O_i = SparseAttention(Q_i, K_i, V_i, m_i), computed from the student's own O_(i-1)      (Eq. 10-13)
    L_distill = sum over i in S of ||O_i - O_i^(t)||^2                                      (Eq. 14)

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
from typing import Literal

import torch
from torch import Tensor, nn

from sparsight.attach import apply, family_in
from sparsight.images import Images, Reader
from sparsight.methods.sve.attention import SparseAttention
from sparsight.ops.fidelity import relative_square, salience
from sparsight.plan import Plan
from sparsight.stages.observe import outputs_of
from sparsight.stages.train import Batches, Training, in_float32, processes, train

CHECKPOINT_FILE = "distillation.safetensors"  # the state of an unfinished one, in the run's folder
Score = Literal["exact", "sampled", "linear"]


class Distillation(Training):
    """Settings of the distillation; the defaults work without tuning."""

    train: Literal["blocks", "all"] = "blocks"  # the sparse layers' weights, or every weight
    scores: tuple[Score, ...] = ()  # used in turn, one a step; none: the plan's


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
    pictures = Batches(Reader(images), settings, accelerator)

    def batch_of(step: int) -> tuple[Tensor]:
        _set_score(student, scores[step % len(scores)])
        return (torch.stack(pictures(step)).to(next(teacher.parameters())),)

    losses = train(
        accelerator, LayerwiseLoss(student, teacher, layers), trained, batch_of, settings,
        rate=settings.learning_rate or 0.025 / width, what="distillation",
        file=folder / CHECKPOINT_FILE if folder else None,
        recipe=[plan.to_json(), settings.model_dump(mode="json")],
    )  # fmt: skip
    changed = {f"model.{name}": p.detach().cpu().clone() for name, p in trained.items()}
    recipe = plan.recipe | {"distillation": settings.model_dump(mode="json")}
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
