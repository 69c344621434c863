"""What a sink does: keep parts, and give their vectors back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsight.encode.rows import Encoded


@dataclass(frozen=True)
class Sink:
    """A format in a folder.  Writing a part again replaces it, so that nothing is ever there twice."""

    folder: Path
    maps: str = "safetensors"  # how maps are stored beside a table

    def write(self, encoded: Encoded) -> None:
        """Keep a part that has rows, whole or not at all."""
        raise NotImplementedError

    def read(self, parts: Sequence[int], columns: list[str]) -> Iterator[Any]:
        """Arrow tables with some columns of these parts."""
        raise NotImplementedError
