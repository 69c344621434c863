"""Every public function and settings of the package, with arguments that are right."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.hostile.small import SIZE, fitted_plan, model, pictures
from pydantic import BaseModel

import sparsight

SVE = sparsight.SVE(layers=(0,), min_tokens=0)


def calls(place: Path) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Every public function with arguments that are right."""
    of, images = model(), pictures()
    pairs = place / "pairs"
    out, run = place / "out", place / "run"
    few: dict[str, Any] = {"max_images": 2}
    plan = sparsight.Plan(methods=(SVE,))
    one = sparsight.Finetuning(steps=1, rank=1, probe_images=2)
    return {kind.__name__: (kind, usual_of(kind)) for kind in settings()} | {
        "apply": (sparsight.apply, {"model": of, "what": SVE, "module": None}),
        "analyze": (sparsight.analyze, {"model": of, "images": images, "module": None, **few}),
        "optimize": (sparsight.optimize, {
            "model": of, "images": images, "method": SVE, "out": out, "distillation": None,
            "adaptation": None,
            "relevance": None, "select_by": "damage", "max_error": 0.1, "indicator_threshold": 0.5,
            "reuse_overlap": 0.6,
            "source": None, "module": None, **few}),
        "measure": (sparsight.measure, {
            "model": of, "plan": plan, "images": images, "resolutions": (SIZE,), "batches": (1,),
            "repeats": 1, "module": None, **few}),
        "compare": (sparsight.compare, {
            "model": of, "images": images, "plans": (), "methods": ("tome",), "repeats": 1,
            "module": None, **few}),
        "evaluate": (sparsight.evaluate, {
            "model": of, "plan": SVE, "task": "features", "data": pairs / "im", "resolution": SIZE,
            "module": None,
            "worst": 1, "seed": 0, "max_images": 1, "mean": (0.5,) * 3, "std": (0.5,) * 3}),
        "finetune": (sparsight.finetune, {
            "model": of, "data": pairs, "resolution": SIZE, "out": out, "settings": one,
            "module": None}),
        "search": (sparsight.search, {
            "model": of, "images": images, "budget": sparsight.Budget(max_loss=99.0), "out": out,
            "method": sparsight.EarlyExit(after=(0,), completion="last"),
            "settings": sparsight.Search(trials=1), "start": None, "latency_table": None,
            "source": None, "module": None, **few}),
        "adapt": (sparsight.adapt, {
            "model": model("swin"), "plan": fitted_plan("swin", sparsight.SparseViT()), "images": images,
            "settings": sparsight.Adaptation(steps=1), "folder": None}),
        "fit_relevance": (sparsight.fit_relevance, {
            "model": of, "plan": sparsight.Plan(methods=(sparsight.SPOT(stages=(1,)),)),
            "images": images,
            "settings": sparsight.RelevanceTraining(steps=1), "folder": None}),
        "save": (sparsight.save, {"what": plan, "folder": out, "module": None}),
        "load": (sparsight.load, {"folder": run}),
        "restore": (sparsight.restore, {"model": of, "module": None}),
        "ImageFolder": (sparsight.ImageFolder, {"folder": pairs / "im", "resolution": SIZE,
            "mean": (0.5,) * 3, "std": (0.5,) * 3}),
        "Budget": (sparsight.Budget, {"speedup": 1.5, "latency_ms": None, "max_loss": None}),
        "Plan": (sparsight.Plan, {"methods": (SVE,), "source": None, "resolution": None,
            "reasons": (), "recipe": {}}),
        "from_json": (sparsight.Plan.from_json, {"text": plan.to_json(), "where": "here"}),
    }  # fmt: skip


def settings() -> list[Any]:
    """Every public class of settings."""
    public = [getattr(sparsight, name) for name in sparsight.__all__]
    return [
        one
        for one in public
        if inspect.isclass(one) and issubclass(one, BaseModel) and one is not sparsight.Plan
    ]


def usual_of(kind: Any) -> dict[str, Any]:
    return {name: field.default for name, field in kind.model_fields.items()}
