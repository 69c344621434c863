"""AOTInductor: a program of PyTorch compiled for this kind of machine (.aoti.pt2)."""

from pathlib import Path
from typing import Any

from sparsight.exports.formats.base import Engine
from sparsight.exports.formats.pt2 import called


def settings(**more: Any) -> dict[str, Any]:
    """Of transformers' exporter, beside the shapes."""
    return {}


def save(program: Any, file: Path, inputs: dict[str, Any]) -> None:
    """One file; it takes a compiler and minutes."""
    from torch._inductor import aoti_compile_and_package

    aoti_compile_and_package(program, package_path=str(file))


def opened(file: Path, dtype: str, threads: int, names: tuple[str, ...]) -> Engine:
    """Run by PyTorch, with the threads it has."""
    from torch._inductor import aoti_load_package

    return called(aoti_load_package(str(file)), dtype)
