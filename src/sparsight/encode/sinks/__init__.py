"""Where features go: Parquet, Lance or WebDataset, each a folder with a ledger."""

from pathlib import Path

from sparsight.encode.sinks.base import Sink
from sparsight.encode.sinks.lance import Lance
from sparsight.encode.sinks.parquet import Parquet
from sparsight.encode.sinks.webdataset import WebDataset
from sparsight.extras import extra

__all__ = ["SINKS", "Sink", "sink_at"]

SINKS: dict[str, type[Sink]] = {"parquet": Parquet, "lance": Lance, "webdataset": WebDataset}


def sink_at(folder: Path, kind: str, maps: str) -> Sink:
    """The sink of a kind; SparsightError if what it needs is not installed."""
    extra("pyarrow")
    if kind == "lance":
        extra("lance")
    return SINKS[kind](folder, maps)
