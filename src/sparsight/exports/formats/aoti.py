"""AOTInductor: compiled ahead of time into a package for this kind of processor; needs g++ to make."""

import shutil
from pathlib import Path
from typing import Any

from sparsight.errors import SparsightError
from sparsight.exports.formats.base import Engine
from sparsight.exports.formats.pt2 import called, settings

__all__ = ["opened", "save", "settings"]


def save(program: Any, file: Path, inputs: dict[str, Any]) -> None:
    """One file."""
    import torch

    if shutil.which("g++") is None:
        raise SparsightError("the format aoti compiles with g++, which is not installed: install it")
    torch._inductor.aoti_compile_and_package(program, package_path=str(file))


def opened(file: Path, dtype: str, threads: int) -> Engine:
    """Run by PyTorch."""
    import torch

    return called(torch._inductor.aoti_load_package(str(file)), dtype)
