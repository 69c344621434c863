"""PyTorch's own exported program (`torch.export`): runs without the model's code."""

from pathlib import Path
from typing import Any

from sparsight.exports.formats.base import Arrays, Engine
from sparsight.exports.shapes import INPUT


def settings(**more: Any) -> dict[str, Any]:
    """Of transformers' exporter, beside the shapes."""
    return {}


def save(program: Any, file: Path, inputs: dict[str, Any]) -> None:
    """One file."""
    import torch

    torch.export.save(program, str(file))


def opened(file: Path, dtype: str, threads: int, names: tuple[str, ...]) -> Engine:
    """Run by PyTorch, with the threads it has."""
    import torch

    return called(torch.export.load(str(file)).module(), dtype)


def called(program: Any, dtype: str) -> Engine:
    """A program of PyTorch that takes arrays and gives some back."""
    import torch

    def run(pictures: Any) -> Arrays:
        with torch.inference_mode():
            found = program(**{INPUT: torch.from_numpy(pictures).to(getattr(torch, dtype))})
        return {
            name: (value.float() if value.is_floating_point() else value).numpy()
            for name, value in found.items()
        }

    return Engine(run, dtype)
