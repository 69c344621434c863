"""Top-1: which answers are right, and what is odd about them."""

from pathlib import Path

from torch import Tensor

from sparsight.tasks.metrics import multiclass_accuracy


def right(answer: Tensor, wanted: Tensor, classes: int) -> Tensor:
    """1 for each right answer, 0 for each wrong one, (n,)."""
    return multiclass_accuracy(
        answer[:, None], wanted[:, None], classes, average="micro", multidim_average="samplewise"
    ).cpu()


def shares(folders: dict[str, list[Path]]) -> dict[str, float]:
    """Each class's share of the pictures."""
    total = sum(map(len, folders.values()))
    return {name: len(paths) / total for name, paths in folders.items()}


def constant(answers: dict[str, list[Tensor]], names: list[str]) -> list[str]:
    """A note for each arm (dense first) whose answers, class numbers (n,), are all the same."""
    return [
        f"the {arm} arm answers {names[int(given[0])]!r} for every picture ({metric})"
        for metric, both in answers.items()
        for arm, given in zip(("dense", "sparse"), both, strict=True)
        if len(given) > 1 and (given == given[0]).all()
    ]
