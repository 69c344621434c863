"""Pictures that are both learnt from and judged."""

from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path


def overlap(train: Sequence[Path], val: Sequence[Path]) -> list[str]:
    """A note if files of both splits have the same bytes; only those of one size are read."""
    shared = {_size(path) for path in train} & {_size(path) for path in val}
    known = {_digest(path) for path in train if _size(path) in shared} - {b""}
    both = [path for path in val if _size(path) in shared and _digest(path) in known]
    if not both:
        return []
    return [
        f"{len(both)} of the {len(val)} pictures judged are also among those to learn from, the first: "
        f"{both[0].name}"
    ]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _digest(path: Path) -> bytes:
    """Of the bytes, or none where the file cannot be read; nobody has learnt from it then."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").digest()
    except OSError:
        return b""
