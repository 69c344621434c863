"""Writing files so that nothing is lost: whole or not at all."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparsight.errors import SparsightError


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` with a temporary path beside `path`, then put the result in its place.

    If anything fails (a full disk, an interrupt), what stood at `path` before is still there and
    nothing half-written is left behind.  A link is followed; a device or pipe is written to directly.
    """
    if "\0" in str(path):
        raise SparsightError(f"{path} is no name of a file: it holds a zero byte")
    special = path.exists() and not path.is_file()
    path = path if special else Path(os.path.realpath(path))  # unlike `resolve`, not at odds with loops
    temporary = path if special else path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        if not special:
            os.replace(temporary, path)
    except BaseException as error:
        if not special:
            with suppress(OSError):  # of a place that is none
                temporary.unlink()
        # safetensors reports a full disk as its own error, with the system's words in it
        if isinstance(error, OSError) or "os error" in str(error) or "I/O error" in str(error):
            raise SparsightError(f"cannot write {path}: {error}") from error
        raise


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all; names that are no text have "?" where their bytes were."""
    write_atomically(path, lambda place: place.write_bytes(text.encode("utf-8", "replace")))


def write_json(path: Path, data: Any) -> None:
    """A JSON file, whole or not at all; NaN is refused."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def check_writable(folder: Path) -> None:
    """Make `folder` and try to write in it, before hours of work are spent on what goes there.

    What a killed process has left half-written in it is removed.
    """
    if folder.exists() and not folder.is_dir():
        raise SparsightError(f"{folder} is a file, not a folder: choose another --out")
    probe = folder / ".writable"
    write_text(probe, "")
    probe.unlink()
    for left in folder.glob(".*.tmp"):
        if (writer := left.name.split(".")[-2]).isdecimal() and not _is_running(int(writer)):
            left.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def check_place(file: Path) -> None:
    """Refuse a place for a file where there is a folder or nothing can be written; leaves nothing."""
    if file.is_dir():
        raise SparsightError(f"{file} is a folder, and a file is to be written: name one in it")
    if file.exists() and not file.is_file():  # a device or pipe
        return
    missing = [folder for folder in file.absolute().parents if not os.path.lexists(folder)]
    try:
        probe = file.with_name(f".{file.name[:100]}.{os.getpid()}.probe")
        write_text(probe, "")
        probe.unlink()
    finally:
        for folder in missing:
            with suppress(OSError):  # it was not made
                folder.rmdir()
