"""Adapt: make a model that drops windows good at any sparsity (SparseViT, Step II).

    s_1 <= s_2 <= ..., each drawn from {0, 0.1, ..., 0.8}, for the units of each stage, at every step
    L_adapt = sum over stages of ||O_i - O_i^(t)||^2 / ||O_i^(t)||^2 + a (1 - corr(magnitude_i^2, d_i^2))

Paper's symbol = name here: a layerwise activation sparsity configuration = what `drawn` gives.  One
training serves every plan, and a search can compare plans without another.  The paper trains with the
labels of its task; give a `loss` to do so.  Our choice without labels: O_i = output of stage i, t = the
dense model, tokens that stand out weighing more, as in SVE's distillation; AdamW with a warm-up and a
cosine; a learning rate that falls with the model's width.  Stages that the plan leaves dense stay dense.
Also ours is the second term, a = `align`: a ranking has no gradient, so nothing else in the loss keeps
what matters strong, and the magnitudes of what stands out may even fall behind (docs/sparsevit.md).  It
makes the squared magnitudes that are ranked follow d_i^2, d_i being the distance of a token of O_i^(t)
from their mean over the picture (its 99th percentile at most), so that windows rank alike by either.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sparsight.arguments import checked
from sparsight.attach import apply, family_in, resolve
from sparsight.errors import PlanError
from sparsight.images import Reader
from sparsight.methods.sparsevit.block import WindowBlock
from sparsight.methods.sparsevit.config import SparseViT
from sparsight.ops.fidelity import relative_square, salience
from sparsight.plan import Plan
from sparsight.scores.tokens import magnitude
from sparsight.scores.view import View
from sparsight.stages.observe import inputs_of, outputs_of
from sparsight.stages.pictures import pictures_for
from sparsight.stages.progress import Progress, followed
from sparsight.stages.train import Batches, Stepwise, in_float32, processes, train

CHECKPOINT_FILE = "adaptation.safetensors"  # the state of an unfinished one, in the run's folder
Loss = Callable[..., Tensor]  # model, pictures (b, 3, height, width), and labels as stacked -> scalar


class Adaptation(Stepwise):
    """Settings of the adaptation; the defaults work without tuning."""

    tenths: Annotated[int, Field(ge=1, le=9)] = 8  # the highest sparsity that is drawn, in tenths
    align: Annotated[float, Field(ge=0)] = 0.25  # weight of the ranking in the loss; 0: the paper's loss


class StageLoss(nn.Module):
    """The student with its loss as forward pass, so that gradients are shared between processes."""

    student: nn.Module

    def __init__(
        self, student: nn.Module, teacher: nn.Module, pruned: Sequence[bool], align: float,
        loss: Loss | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.student, self.pruned, self.align, self.loss = student, pruned, align, loss
        self.teachers = (teacher,)  # not a child: neither trained nor wrapped
        windows = family_in(student).windows
        assert windows is not None  # or the plan could not have been applied
        stages = windows.stages(student)
        self.first, self.last = [s[0][0] for s in stages], [s[-1][-1] for s in stages]  # layers

    def forward(self, images: Tensor, *labels: Tensor) -> Tensor:
        """The loss with labels or that of the stages' outputs, and that of the ranking."""
        family = family_in(self.student)
        with torch.no_grad(), outputs_of(self.teachers[0], self.last) as wanted:
            family.features(self.teachers[0], images)
        with outputs_of(self.student, self.last) as got, inputs_of(self.student, self.first) as given:
            if self.loss is not None:
                terms = [self.loss(self.student, images, *labels)]
            else:
                family.features(self.student, images)
                terms = [
                    relative_square(ours, its, salience(its, prefix=0)).mean()
                    for ours, its in ((_rows(got[n]), _rows(wanted[n])) for n in self.last)
                ]
        for first, last, is_pruned in zip(self.first, self.last, self.pruned, strict=True):
            if is_pruned and self.align:
                target = salience(_rows(wanted[last]), prefix=0, power=2.0)
                ours = _rows(given[first])
                terms.append(self.align * misalignment(magnitude(View(ours, ours, 0)), target))
        return torch.stack(terms).sum()


def misalignment(magnitudes: Tensor, target: Tensor) -> Tensor:
    """1 - correlation over tokens of squared magnitudes with `target`, both (b, n); the batch's mean."""
    ours = magnitudes.square()
    ours, its = ours - ours.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
    return 1 - F.cosine_similarity(ours, its, dim=1).mean()


def _rows(x: Tensor) -> Tensor:
    return x.flatten(1, -2)


@followed
@checked
def adapt(
    model: nn.Module,
    plan: Plan,
    images: Any,
    settings: Adaptation | None = None,
    folder: Path | None = None,
    loss: Loss | None = None,
    progress: Progress | None = None,
) -> tuple[Plan, list[float]]:
    """Adapt `model` to dropping windows where `plan` does; returns the plan with the changed weights.

    `images` are pictures in any form that `optimize` takes, or with a `loss` tuples of a picture and its
    labels.  Also returns the loss of every step.  `model` itself is the teacher and stays as it is.  A
    `folder` is used as by `distil`, `progress` as by `optimize`.  Raises PlanError if the plan is
    another method's.
    """
    settings = settings or Adaptation()
    if plan.find(SparseViT) is None:
        raise PlanError(f"adapt is for SparseViT alone, not for {plan.name}: use distil")
    images = pictures_for(model, images, None, plan.resolution, loss is not None)
    accelerator = processes()
    teacher = in_float32(model).to(accelerator.device).eval()
    student, method = _student(teacher, plan)
    family, pruned = family_in(student), [any(stage) for stage in method.by_stage]
    trained = dict(student.named_parameters())
    for parameter in trained.values():
        parameter.requires_grad_(True)
    batches = Batches(Reader(images), settings, accelerator)
    _try_hardest(student, method, settings, batches.reader.read(0))

    def batch_of(step: int) -> tuple[Tensor, ...]:
        _configure(student, drawn(method, step, settings))
        items = [item if isinstance(item, tuple) else (item,) for item in batches(step)]
        pictures, *labels = (torch.stack(part) for part in zip(*items, strict=True))
        moved = (part.to(accelerator.device) for part in labels)
        return pictures.to(next(teacher.parameters())), *moved

    width = max(family.dim(block) for block in family.blocks(student))
    # A ranking by anything else than the magnitudes need not follow them.
    align = settings.align if method.score == "magnitude" else 0.0
    objective = StageLoss(student, teacher, pruned, align, loss)
    losses = train(
        accelerator, objective, trained, batch_of, settings, settings.steps,
        rate=settings.learning_rate or 0.025 / width, what="adaptation",
        file=folder / CHECKPOINT_FILE if folder else None,
        recipe=[plan.to_json(), settings.model_dump(mode="json"), loss is not None],
    )  # fmt: skip
    before = dict(teacher.named_parameters())
    changed = {
        f"model.{name}": parameter.detach().cpu().clone()
        for name, parameter in trained.items()
        if not torch.equal(parameter, before[name])
    }
    recipe = plan.recipe | {
        "adaptation": settings.model_dump(mode="json") | {"labels": loss is not None}
    }
    return plan.with_(weights=changed, recipe=recipe), losses


def _try_hardest(student: nn.Module, method: SparseViT, settings: Adaptation, item: Any) -> None:
    """Raise SparsightError now, and not at a later step, if a stage has too few windows for a draw."""
    hardest = tuple(
        tuple(settings.tenths / 10 if may_drop else 0.0 for may_drop in stage)
        for stage in method.by_stage
    )
    _configure(student, method.model_copy(update={"sparsity": hardest}))
    picture = item[0] if isinstance(item, tuple) else item
    with torch.no_grad():
        family_in(student).features(student, picture[None].to(next(student.parameters())))


def _configure(student: nn.Module, method: SparseViT) -> None:
    for block in family_in(student).blocks(student):
        if isinstance(block, WindowBlock):
            block._sparsight.config = method


def drawn(plan: SparseViT, step: int, settings: Adaptation) -> SparseViT:
    """`plan` with rising sparsities in every stage that drops windows, by the number of the step."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)

    def draw(stage: tuple[float, ...]) -> tuple[float, ...]:
        dropping = sum(map(bool, stage))
        tenths = torch.randint(settings.tenths + 1, (dropping,), generator=generator, device="cpu")
        never = (0.0,) * (len(stage) - dropping)  # the first of a stage, since sparsity does not fall
        return never + tuple(tenth / 10 for tenth in sorted(tenths.tolist()))

    return plan.model_copy(update={"sparsity": tuple(map(draw, plan.by_stage))})


def _student(teacher: nn.Module, plan: Plan) -> tuple[nn.Module, SparseViT]:
    """A copy whose blocks can drop windows wherever the plan may, and its settings.

    Without completion that is every unit of the plan's stages, as in the paper; with it, those that have
    a map.
    """
    method = resolve(plan, teacher, family_in(teacher)).one(SparseViT).at_any_size()
    method = method.model_copy(update={"bound": None})  # counts are drawn
    if method.completion == "last":
        every = tuple((max(stage),) * len(stage) for stage in method.by_stage)
        method = method.model_copy(update={"sparsity": every})
    return apply(copy.deepcopy(teacher), plan.changed(method)), method
