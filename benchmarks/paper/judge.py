"""The columns that need weights and pictures: SVE from calibration to the task's score."""

from pathlib import Path
from typing import Any

from benchmarks.paper.config import Encoder, TaskRow

import sparsight
from sparsight.models import LoadedModel
from sparsight.plan import Plan
from sparsight.stages.predict import fit_projectors
from sparsight.tasks.finetune import WEIGHTS_FILE


def judged(
    encoder: Encoder, row: TaskRow, weights: Path, data: Path, out: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    """Scores of the dense and the sparse model, and of the ablation's arms where there is one.

    `settings` are of every training.  What was trained is in `out`, and is not trained again.
    """
    loaded = encoder.load(weights)
    normal = {"mean": loaded.mean, "std": loaded.std}
    if encoder.finetune:
        tuning = sparsight.Finetuning(**settings)
        loaded = _finetuned(encoder, loaded, data / encoder.finetune, out / "finetuned", tuning)
    images = sparsight.ImageFolder(data / row.images, encoder.size, **normal)
    method = sparsight.SVE(score=encoder.score)
    distillation = sparsight.Distillation(final=0, **settings)  # the paper's loss, layers alone
    if (out / "run" / "plan.json").exists():
        plan = sparsight.load(out / "run")
    else:
        plan = sparsight.optimize(
            loaded.model, images, method, out / "run", distillation, select_by="indicator"
        )
    found: dict[str, Any] = {"reasons": list(plan.reasons)}
    for arm, arm_plan in _arms(plan, encoder).items():
        result = sparsight.evaluate(
            loaded.model, arm_plan, row.task, data / row.data, encoder.size, **normal
        )
        found[arm] = next(score for score in result["scores"] if score["metric"] == row.score)
        found["protocol"] = result["protocol"]
    return found


def analyzed(encoder: Encoder, weights: Path, data: Path) -> dict[str, Any]:
    """A figure's statistics of every layer, as `sparsight analyze` has them."""
    loaded = encoder.load(weights)
    images = sparsight.ImageFolder(data, encoder.size, loaded.mean, loaded.std)
    fitted = {}
    if encoder.projector is not None:
        found = fit_projectors(loaded.model, images, (encoder.projector,))
        fitted = {encoder.projector: next(iter(found.values()))}
    return sparsight.analyze(loaded.model, images, projectors=fitted).model_dump(mode="json")


def _finetuned(
    encoder: Encoder, loaded: LoadedModel, data: Path, out: Path, settings: sparsight.Finetuning
) -> LoadedModel:
    if not (out / WEIGHTS_FILE).exists():
        sparsight.finetune(
            loaded.model, data, encoder.size, out, settings, mean=loaded.mean, std=loaded.std
        )
    return encoder.model_copy(update={"weights": WEIGHTS_FILE}).load(out)


def _arms(plan: Plan, encoder: Encoder) -> dict[str, Plan]:
    """SVE as it is; for the ablation also each half of it without the other."""
    if encoder.ablation is None:
        return {"sve": plan}
    alone = plan.sve.model_copy(update={"groups": ()})
    return {
        "sparse": Plan(methods=(alone,)),
        "dense_distilled": plan.changed(alone.model_copy(update={"keep": 1.0})),
        "sparse_distilled": plan.changed(alone),
    }
