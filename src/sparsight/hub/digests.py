"""Are the files of a run those that were pushed?  Its config.json says, by SHA-256."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sparsight.errors import PlanError

CONFIG_FILE = "config.json"  # by which the hub counts downloads, too
LIBRARY = "sparsight"
MAX_BYTES = 1_000_000


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def config_of(folder: Path) -> dict[str, Any]:
    """What `push` wrote beside a run, {} if there is none or it is another library's."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_BYTES:
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.get("library_name") == LIBRARY else {}


def check_digests(folder: Path, *names: str) -> None:
    """Raise PlanError at the first file that is not what was pushed."""
    files = config_of(folder).get("files", {})
    for name in names if isinstance(files, dict) else ():
        if name in files and (folder / name).is_file() and files[name] != digest(folder / name):
            raise PlanError(
                f"{name} in {folder} is not what was pushed (its SHA-256 is another): remove it and "
                "fetch it anew, or push the run again"
            )
