"""Evaluate: a task's metric of a dense model and of its sparse form, in one run."""

import copy
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from sparsight.arguments import checked
from sparsight.attach import What, applied, apply, as_plan
from sparsight.data import Sides, size_of
from sparsight.errors import PlanError, SparsightError
from sparsight.families import encoder_in
from sparsight.modes import evaluating
from sparsight.stages import timing
from sparsight.stages.fallback import fallback_notes
from sparsight.stages.kept import counted
from sparsight.stages.measure import name as size_name
from sparsight.stages.pictures import check_takes
from sparsight.stages.progress import Progress, followed
from sparsight.tasks import task_named
from sparsight.tasks.base import Arms, requested, shares_told
from sparsight.tasks.paired import CONFIDENCE, RESAMPLES

OF_FEATURES = ("segmentation", "classification", "salient")  # what reads nothing but final features
COMMON = {"data", "resolution", "mean", "std", "max_images", "seed", "worst"}


@followed
@checked
def evaluate(
    model: nn.Module,
    plan: What,
    task: str,
    data: str | Path,
    resolution: Sides | None = None,
    module: str | None = None,
    engine: nn.Module | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Judge `model` as it is (dense) and a copy with a plan applied, on the folder `data`.

    `plan`         a plan, or whatever else `apply` takes
    `task`         one of `sparsight.tasks.TASKS`
    `resolution`   height and width, or the side of a square; the plan's unless given
    `module`       attribute path of the encoder, if `model` is a larger model
    `engine`       stands for the plan applied, where an exported file is judged (exports/standin.py)
    `progress`     is told as by `sparsight.optimize`
    `options`      those of `sparsight.tasks.base.Request`

    Returns `protocol`, `scores` and `details` (each row: dense, sparse, difference, and the interval low
    to high of the difference), the `shares` of void and of each class in each split (`labels` in words),
    the `worst` images, and what was `skipped` or needs `notes`.  Where counts depend on the picture, as
    under a bound, `kept` has the spread of the shares that were kept, and `kept_by_image` each.
    """
    given = as_plan(plan)
    if (sides := resolution or given.resolution) is None:
        raise PlanError("this plan does not say for which resolution it was made: give one")
    size = size_of(sides)
    chosen = task_named(task)
    request = requested(Path(data), size, options)
    if not request.data.is_dir():
        raise SparsightError(f"there is no folder {request.data}")
    for option in fields(request):
        is_given = getattr(request, option.name) != option.default
        if is_given and option.name not in COMMON | chosen.uses:
            raise SparsightError(f"the task {task} has no use for the option {option.name}")
    encoder = encoder_in(model, module)
    if applied(encoder):
        raise PlanError("evaluate compares a dense model with a plan: restore the model first")
    check_takes(encoder, size, len(request.mean))
    first = next(model.parameters())
    with evaluating(model):
        if engine is not None:
            if task not in OF_FEATURES or request.names is not None:
                raise SparsightError(
                    f"an exported file has final features, which {task} here looks beyond: judge it "
                    f"by {', '.join(OF_FEATURES)}, or the run in PyTorch"
                )
            arms = Arms(encoder, engine, (model, engine))
        else:
            changed = copy.deepcopy(model)
            arms = Arms(encoder, apply(encoder_in(changed, module), given), (model, changed))
        used = applied(arms.sparse).plan  # type: ignore[union-attr]  # with every layer named
        with counted(arms.sparse) as counts:
            found = chosen.run(arms, request)
        judged = counts.last(len(found.passed))
        notes = [*fallback_notes(arms.sparse, size), *judged.notes(), *found.notes]
    kept = dict(zip(found.passed, judged.pictures, strict=True)) if judged.pictures else {}
    return {
        "task": task,
        "protocol": timing.setting(first.device, first.dtype) | {
            "data": request.data.name, "resolution": size_name(size), "seed": request.seed,
            "images": found.images, "metric": found.metric, "source": used.source,
            "plan": used.label,
            "interval": f"{100 * CONFIDENCE:.0f} %, bootstrap over images, {RESAMPLES} draws, paired",
            **found.recipe,
        },
        "scores": found.scores,
        "details": found.details,
        "shares": found.shares,
        "labels": {split: shares_told(shares) for split, shares in found.shares.items()},
        "worst": [row | ({"kept": kept[row["image"]]} if kept else {}) for row in found.worst],
        "skipped": found.skipped,
        "notes": notes,
    } | ({"kept": judged.spread(), "kept_by_image": kept} if kept else {})  # fmt: skip
