"""Committing a file of a sink: whole, and on the disk before anything says that it is there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsight.files import write_atomically


def commit(path: Path, write: Callable[[Path], Any]) -> None:
    """`write_atomically`, and synced: a marker must not outlive what it stands for."""

    def synced(place: Path) -> None:
        write(place)
        with place.open("rb") as file:
            os.fsync(file.fileno())

    write_atomically(path, synced)
