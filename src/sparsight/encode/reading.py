"""Reading a sink back: what it says of itself, and its vectors."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.encode.ledger import Ledger
from sparsight.encode.sinks import Sink, sink_at
from sparsight.errors import SparsightError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Opened:
    """A sink to read from: what it says of itself, and the parts that are there and have rows."""

    ledger: Ledger
    facts: dict[str, Any]
    sink: Sink
    parts: list[int]


def open_sink(folder: Path) -> Opened:
    """SparsightError if there is no sink, or nothing in it yet."""
    ledger = Ledger(folder)
    facts = ledger.facts()
    ledger.read_listing()
    parts = [part for part, tally in ledger.done().items() if tally.pictures]
    if not parts:
        raise SparsightError(f"{folder} has no features yet: run sparsight encode first")
    return Opened(ledger, facts, sink_at(folder, facts["format"], "safetensors"), parts)


def vectors_of(opened: Opened, column: str) -> "Iterator[tuple[list[str], np.ndarray]]":
    """Ids and unit vectors (n, c), a part at a time."""
    for table in opened.sink.read(opened.parts, ["id", column]):
        if len(table):
            flat = table[column]
            flat = (flat.combine_chunks() if hasattr(flat, "chunks") else flat).flatten()
            yield table["id"].to_pylist(), unit(flat.to_numpy().reshape(len(table), -1))


def unit(vectors: "np.ndarray") -> "np.ndarray":
    """Rows of length 1; one of zeros stays."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
