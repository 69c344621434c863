"""Train SPOT's token relevance: one training for every rho, without labels unless a loss brings them.

    L = 0.5 L_distill + 8 mean over k of (share of patches left after stage k - rho^k)^2

The paper's recipe is not public.  Ours is after DynamicViT's: Gumbel noise, a hard choice and a
straight-through gradient (sparsight.methods.spot.policy), a ratio loss.  Ours alone: rho is drawn anew
for each step; L_distill compares the final features with the dense model's, tokens weighted by salience,
and once more cls alone.  Tokens that have left count too, for they keep their last value and are given
out.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from sparsight.arguments import checked
from sparsight.attach import STATE, Applied, family_in
from sparsight.errors import PlanError
from sparsight.fit import resolve
from sparsight.images import Reader
from sparsight.inplace import argument_names, change
from sparsight.methods import SPOT, method_of, tensor_name
from sparsight.methods.base import Fraction
from sparsight.methods.site import Site
from sparsight.methods.spot.config import network_names
from sparsight.methods.spot.policy import CARRY, Draw, PolicyBlock
from sparsight.ops.fidelity import relative_square, salience
from sparsight.plan import Plan
from sparsight.stages.observe import outputs_of
from sparsight.stages.pictures import pictures_for
from sparsight.stages.progress import Progress, followed
from sparsight.stages.relevance_error import fit_errors
from sparsight.stages.train import Batches, Stepwise, in_float32, processes, train

CHECKPOINT_FILE = "relevance.safetensors"  # the state of an unfinished one, in the run's folder
# DynamicViT's weights are 0.5 and 2.  With 2 the shares drift off (to 0.6 of rho^k in a trial), and the
# ranking is then learned for other counts than will be kept.
DISTILL_WEIGHT, RATIO_WEIGHT = 0.5, 8.0
PREDICTOR_RATE = 3e-3
ERROR_IMAGES = 16  # that errors are learned from

TaskLoss = Callable[[Tensor, Tensor], Tensor]  # final features (b, n, c), truths -> a number


class RelevanceTraining(Stepwise):
    """Settings of the training; the defaults work without tuning."""

    learns: Literal["gates", "map-error"] = "gates"  # from a sparse model's loss, or relevance_error.py
    train: Literal["predictors", "blocks"] = "predictors"  # gates: or the blocks too
    rho: tuple[Fraction, Fraction] = (0.5, 0.95)  # every step draws one between these

    @model_validator(mode="after")
    def _a_range(self) -> "RelevanceTraining":
        if not self.rho[0] <= self.rho[1] < 1:
            raise ValueError(f"rho is a range within (0, 1), not {list(self.rho)}")
        return self


class RelevanceLoss(nn.Module):
    """The student with its loss as forward pass, so that gradients are shared between processes."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, stages: tuple[int, ...], draw: Draw,
        networks: list[nn.Parameter], task_loss: TaskLoss | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.student, self.networks = student, nn.ParameterList(networks)
        self.stages, self.draw, self.task_loss = stages, draw, task_loss
        self.teachers = (teacher,)  # not a child: neither trained nor wrapped

    def forward(self, images: Tensor, truths: Tensor | None = None) -> Tensor:
        """L of one batch, with the task's own loss added if there is one."""
        family = family_in(self.teachers[0])
        prefix = family.prefix_tokens(self.teachers[0])
        with torch.no_grad():
            wanted = family.features(self.teachers[0], images)
        with outputs_of(self.student, self.stages) as outputs:
            got = family.features(self.student, images)
        loss = relative_square(got, wanted, salience(wanted, prefix)).mean()
        if prefix:
            loss = loss + relative_square(got[:, :1], wanted[:, :1]).mean()
        total = DISTILL_WEIGHT * loss
        for k, stage in enumerate(self.stages, 1):
            left = getattr(outputs[stage], CARRY).keep[:, prefix:].mean(1)
            total = total + RATIO_WEIGHT / len(self.stages) * (left - self.draw.rho**k).square().mean()
        if self.task_loss is not None and truths is not None:
            total = total + self.task_loss(got, truths)
        return total


@followed
@checked
def fit_relevance(
    model: nn.Module,
    plan: Plan,
    images: Any,
    settings: RelevanceTraining | None = None,
    folder: Path | None = None,
    task_loss: TaskLoss | None = None,
    progress: Progress | None = None,
) -> tuple[Plan, list[float]]:
    """Train the networks of a SPOT plan for `model`; returns the plan with them, and every step's loss.

    `model` itself is the teacher and stays as it is.  Networks that the plan has are trained on, others
    start at random.  `images` are pictures in any form that `optimize` takes, or with a `task_loss`
    pairs of a picture and its truth, a tensor.  With a `folder` the state is saved every minute, at an
    interrupt and at the end, and the same call goes on from there to the same weights.  `progress` is
    told as by `optimize`.
    """
    last = plan.one(SPOT).model_copy(update={"completion": "last", "taps": ()})  # maps come after it
    settings = settings or RelevanceTraining()
    if settings.learns == "map-error" and task_loss is not None:
        raise PlanError("learns='map-error' has a loss of its own: leave task_loss out")
    images = pictures_for(model, images, None, plan.resolution, task_loss is not None)
    accelerator = processes()
    teacher = in_float32(model).to(accelerator.device).eval()
    family = family_in(teacher)
    blocks = family.blocks(teacher)
    config = last.resolved(family.global_layers(teacher), len(blocks))
    shapes = {
        tensor_name("spot", stage, name): shape
        for stage, named in method_of(config).tensors(config, teacher, family).items()
        for name, shape in named.items()
    }
    known = _initial(shapes, settings.seed) | plan.weights
    resolve(plan.changed(config).with_(weights=known), teacher, family)

    recipe = plan.recipe | {"relevance": settings.model_dump(mode="json")}
    if settings.learns == "map-error":
        like, chosen = next(teacher.parameters()), Reader(images).spread(ERROR_IMAGES)
        dense_pictures = (picture[None].to(like.device, like.dtype) for picture in chosen)
        start = {name: known[name].float() for name in shapes}
        found, losses = fit_errors(
            teacher, family, config, dense_pictures, start, settings.steps, settings.seed
        )
        return plan.with_(weights=found, recipe=recipe), losses

    draw = Draw(config.rho, torch.Generator())
    networks = _networks(known, config, accelerator.device)
    student = _student(teacher, plan, config, networks, draw)
    trained = networks | _trainable_blocks(student, settings.train == "blocks")
    pictures = Batches(Reader(images), settings, accelerator)

    def batch_of(step: int) -> tuple[Tensor, ...]:
        # A function of the step, so that resuming is exact; rho is the same for all processes.
        number = settings.seed * 1_000_003 + step
        low, high = settings.rho
        generator = torch.Generator().manual_seed(number)
        chance = torch.rand((), generator=generator, dtype=torch.float32, device="cpu").item()
        draw.rho = low + (high - low) * chance
        draw.generator.manual_seed(number * accelerator.num_processes + accelerator.process_index)
        batch = pictures(step)
        columns = (batch,) if task_loss is None else zip(*batch, strict=True)
        stacked, *truths = (torch.stack(list(column)) for column in columns)
        moved = (part.to(accelerator.device) for part in truths)
        return stacked.to(next(teacher.parameters())), *moved

    width = max(family.dim(block) for block in blocks)
    usual = PREDICTOR_RATE if settings.train == "predictors" else 0.025 / width
    losses = train(
        accelerator,
        RelevanceLoss(student, teacher, config.named_stages, draw, list(networks.values()), task_loss),
        trained, batch_of, settings, settings.steps, rate=settings.learning_rate or usual,
        what="training of relevance",
        file=folder / CHECKPOINT_FILE if folder else None,
        recipe=[plan.to_json(), settings.model_dump(mode="json"), task_loss is not None],
    )  # fmt: skip
    found = {name: p.detach().cpu().clone() for name, p in trained.items() if not _is_shift(name)}
    return plan.with_(weights=found, recipe=recipe), losses


def _initial(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Random inner weights, all else zero: at first every token is as likely to stay."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        / shape[1] ** 0.5
        if len(shape) == 2
        else torch.zeros(shape, dtype=torch.float32, device="cpu")
        for name, shape in shapes.items()
    }


def _networks(known: dict[str, Tensor], config: SPOT, device: torch.device) -> dict[str, nn.Parameter]:
    """The parameters of every stage; its shift starts where even scores keep rho of the tokens."""
    found = {}
    for stage in config.named_stages:
        for short in network_names():
            name = tensor_name("spot", stage, short)
            found[name] = nn.Parameter(known[name].to(device, torch.float32).clone())
        found[_shift(stage)] = nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float32, device=device))
    return found


def _shift(stage: int) -> str:
    """The name of (a, c) of a stage among the trained tensors."""
    return f"spot.{stage}.shift"


def _is_shift(name: str) -> bool:
    return name.endswith(".shift")


def _student(
    teacher: nn.Module, plan: Plan, config: SPOT, networks: dict[str, nn.Parameter], draw: Draw
) -> nn.Module:
    """A copy of the teacher with the plan's changes of weights, whose blocks run under the policy."""
    student, family = copy.deepcopy(teacher), family_in(teacher)
    own = student.state_dict()
    with torch.no_grad():
        for name, value in plan.weights.items():
            if name.startswith("model."):
                own[name.removeprefix("model.")].copy_(value)
    prefix, blocks = family.prefix_tokens(teacher), family.blocks(student)
    by_stage = {
        stage: [
            *(networks[tensor_name("spot", stage, short)] for short in network_names()),
            networks[_shift(stage)],
        ]
        for stage in config.named_stages
    }
    for layer in config.changed_layers(family.global_layers(teacher)):
        block: Any = blocks[layer]
        names = argument_names(block)
        site = Site(family, prefix, config, layer, len(blocks), names, (draw, by_stage))
        change(block, PolicyBlock, site, {})
    student.__dict__[STATE] = Applied(plan, family)
    return student


def _trainable_blocks(student: nn.Module, train: bool) -> dict[str, nn.Parameter]:
    """The parameters of the changed blocks by their names in a plan, if they are to be trained."""
    changed = [block for block in family_in(student).blocks(student) if isinstance(block, PolicyBlock)]
    chosen = {id(p) for block in changed for p in block.parameters()}
    trained = {}
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(train and id(parameter) in chosen)
        if parameter.requires_grad:
            trained[f"model.{name}"] = parameter
    return trained
