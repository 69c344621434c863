"""The tasks encoders are judged by: dense against sparse in one run, one file for each task."""

from importlib import import_module

from sparsight.errors import SparsightError
from sparsight.tasks.base import Task

TASKS = ("features", "segmentation", "classification", "salient", "prompted")


def task_named(name: str) -> Task:
    """The task called `name`; its libraries are loaded now."""
    if name not in TASKS:
        raise SparsightError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
    module = import_module(f"sparsight.tasks.{name}")
    return Task(module.run, getattr(module, "USES", frozenset()))
