"""Top-1: which answers are right."""

from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy


def right(answer: Tensor, wanted: Tensor, classes: int) -> Tensor:
    """1 for each right answer, 0 for each wrong one, (n,)."""
    return multiclass_accuracy(
        answer[:, None], wanted[:, None], classes, average="micro", multidim_average="samplewise"
    ).cpu()
