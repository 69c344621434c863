"""What tasks take from torchmetrics, which imports torchvision: its operators are repaired first."""

from sparsight._torchvision import repair

repair()

from torchmetrics.functional.classification import (  # noqa: E402
    binary_jaccard_index,
    multiclass_accuracy,
    multiclass_stat_scores,
)

__all__ = ["binary_jaccard_index", "multiclass_accuracy", "multiclass_stat_scores"]
