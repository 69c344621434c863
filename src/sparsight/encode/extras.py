"""Packages that an extra brings, with a clear sentence if one is not there."""

from importlib import import_module
from typing import Any

from sparsight.errors import SparsightError

EXTRA = {  # module -> the extra that has it
    "pyarrow": "encode", "filelock": "encode", "lance": "lance", "webdataset": "webdataset",
    "ray": "ray", "faiss": "faiss",
}  # fmt: skip


def extra(name: str) -> Any:
    """The module `name`."""
    try:
        return import_module(name)
    except ImportError as error:
        which = EXTRA[name.partition(".")[0]]
        raise SparsightError(
            f"{name} is needed for this and cannot be imported ({str(error)[:100]}): "
            f"pip install 'sparsight[{which}]'"
        ) from None


def pyarrow() -> Any:
    """pyarrow, which every source and sink needs."""
    return extra("pyarrow")
