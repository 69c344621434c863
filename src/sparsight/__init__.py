"""Sparsight: make pretrained vision encoders fast at high resolution, after training, without labels.

>>> model = sparsight.apply(model, sparsight.SVE(layers=range(6, 12), keep=1 / 8))   # sparse, in place
>>> model = sparsight.restore(model)                                                 # as it was
>>> with sparsight.sparse(model, "runs/mine") as model: ...                          # for a while

The verbs, in the order of the pipeline: `analyze`, `optimize`, `apply`, `measure`, `evaluate`, `save`,
`load`, `restore`, `export`; and before them `finetune`, to adapt a model to a higher resolution; with
the hub, `push`, `from_pretrained` and `pull`.  Everything is loaded when first used, so that importing
the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsight.attach import apply, restore, save, sparse
    from sparsight.errors import (
        ArgumentError,
        HubError,
        ImagesError,
        LabelsError,
        MissingPackageError,
        NotFiniteError,
        PlanError,
        SparsightError,
        UnsupportedModelError,
    )
    from sparsight.exports.front import export
    from sparsight.exports.opened import open_exported
    from sparsight.images import ImageFolder
    from sparsight.methods import (
        SPOT,
        SVE,
        ASViT,
        Bypass,
        ClsTopK,
        DensityPeaks,
        EarlyExit,
        LocalAttention,
        LowerResolution,
        MLPRouting,
        MutualPairs,
        SparseViT,
        ToMe,
    )
    from sparsight.plan import Plan
    from sparsight.run import from_pretrained, load
    from sparsight.share import pull, push
    from sparsight.stages.adapt import Adaptation, adapt
    from sparsight.stages.calibrate import analyze
    from sparsight.stages.compare import compare
    from sparsight.stages.distil import Distillation
    from sparsight.stages.doctor import doctor
    from sparsight.stages.measure import measure
    from sparsight.stages.optimize import optimize
    from sparsight.stages.relevance import RelevanceTraining, fit_relevance
    from sparsight.stages.search import Budget, Search, search
    from sparsight.tasks.evaluate import evaluate
    from sparsight.tasks.finetune import Finetuning, finetune

__version__ = "0.2.0"

_WHERE = {
    "adapt": "sparsight.stages.adapt",
    "Adaptation": "sparsight.stages.adapt",
    "analyze": "sparsight.stages.calibrate",
    "apply": "sparsight.attach",
    "ArgumentError": "sparsight.errors",
    "ASViT": "sparsight.methods",
    "Budget": "sparsight.stages.search",
    "Bypass": "sparsight.methods",
    "ClsTopK": "sparsight.methods",
    "DensityPeaks": "sparsight.methods",
    "LocalAttention": "sparsight.methods",
    "MutualPairs": "sparsight.methods",
    "EarlyExit": "sparsight.methods",
    "MLPRouting": "sparsight.methods",
    "compare": "sparsight.stages.compare",
    "Distillation": "sparsight.stages.distil",
    "doctor": "sparsight.stages.doctor",
    "evaluate": "sparsight.tasks.evaluate",
    "export": "sparsight.exports.front",
    "finetune": "sparsight.tasks.finetune",
    "Finetuning": "sparsight.tasks.finetune",
    "fit_relevance": "sparsight.stages.relevance",
    "from_pretrained": "sparsight.run",
    "HubError": "sparsight.errors",
    "ImageFolder": "sparsight.images",
    "ImagesError": "sparsight.errors",
    "LabelsError": "sparsight.errors",
    "load": "sparsight.run",
    "LowerResolution": "sparsight.methods",
    "measure": "sparsight.stages.measure",
    "MissingPackageError": "sparsight.errors",
    "NotFiniteError": "sparsight.errors",
    "open_exported": "sparsight.exports.opened",
    "optimize": "sparsight.stages.optimize",
    "Plan": "sparsight.plan",
    "pull": "sparsight.share",
    "push": "sparsight.share",
    "PlanError": "sparsight.errors",
    "RelevanceTraining": "sparsight.stages.relevance",
    "restore": "sparsight.attach",
    "save": "sparsight.attach",
    "search": "sparsight.stages.search",
    "sparse": "sparsight.attach",
    "Search": "sparsight.stages.search",
    "SparseViT": "sparsight.methods",
    "SparsightError": "sparsight.errors",
    "SPOT": "sparsight.methods",
    "SVE": "sparsight.methods",
    "ToMe": "sparsight.methods",
    "UnsupportedModelError": "sparsight.errors",
}

__all__ = [
    "SPOT",
    "SVE",
    "ASViT",
    "Adaptation",
    "ArgumentError",
    "Budget",
    "Bypass",
    "ClsTopK",
    "DensityPeaks",
    "Distillation",
    "EarlyExit",
    "Finetuning",
    "HubError",
    "ImageFolder",
    "ImagesError",
    "LabelsError",
    "LocalAttention",
    "LowerResolution",
    "MLPRouting",
    "MissingPackageError",
    "MutualPairs",
    "NotFiniteError",
    "Plan",
    "PlanError",
    "RelevanceTraining",
    "Search",
    "SparseViT",
    "SparsightError",
    "ToMe",
    "UnsupportedModelError",
    "adapt",
    "analyze",
    "apply",
    "compare",
    "doctor",
    "evaluate",
    "export",
    "finetune",
    "fit_relevance",
    "from_pretrained",
    "load",
    "measure",
    "open_exported",
    "optimize",
    "pull",
    "push",
    "restore",
    "save",
    "search",
    "sparse",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'sparsight' has no attribute {name!r}")
    try:
        value = getattr(import_module(_WHERE[name]), name)
    except ImportError as error:
        from sparsight.extras import missing

        raise missing(error) or error from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
