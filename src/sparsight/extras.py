"""Packages that an extra brings, and the sentence where one is not there.

Whoever needs one imports it where it is used; what is raised then becomes the sentence at the front: in
every public function (arguments.py), at the command line, and where the package is first asked for a
name.
"""

from importlib import import_module
from typing import Any

from sparsight.errors import MissingPackageError, brief

EXTRA = {  # package -> the extra that has it
    "accelerate": "train", "faiss": "faiss", "filelock": "encode", "gradio": "explore",
    "huggingface_hub": "hub", "jinja2": "report", "lance": "lance", "matplotlib": "plot",
    "optuna": "search", "peft": "finetune", "plotly": "report", "pyarrow": "encode", "ray": "ray",
    "rich": "cli", "timm": "timm", "torchmetrics": "tasks", "transformers": "hf", "typer": "cli",
}  # fmt: skip


def missing(error: ImportError) -> MissingPackageError | None:
    """What to raise for a package of an extra that cannot be imported; None if it is of no extra."""
    name = (error.name or "").partition(".")[0]
    if name not in EXTRA:
        return None
    return MissingPackageError(
        f"{name} is needed for this and cannot be imported ({brief(error, 80)}): pip install "
        f"'sparsight[{EXTRA[name]}]'"
    )


def extra(name: str) -> Any:
    """The module `name`; MissingPackageError if it cannot be imported."""
    try:
        return import_module(name)
    except ImportError as error:
        error.name = error.name or name
        raise missing(error) or error from None


def pyarrow() -> Any:
    """pyarrow, which every source and sink of `encode` needs."""
    return extra("pyarrow")
