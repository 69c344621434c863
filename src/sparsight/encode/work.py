"""The work itself, whoever drives it: encode parts, keep each, mark it."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from sparsight.encode.ahead import ahead
from sparsight.encode.batches import Batch, End, batches
from sparsight.encode.encoder import Encoder
from sparsight.encode.ledger import Ledger
from sparsight.encode.listing import Record
from sparsight.encode.rows import Encoded, Row
from sparsight.encode.settings import EncoderSettings
from sparsight.encode.sinks import sink_at
from sparsight.encode.sources import Source
from sparsight.encode.tally import Tally
from sparsight.errors import NotFiniteError


@dataclass(frozen=True)
class Job:
    """All that another process needs to do a part of the work."""

    settings: EncoderSettings
    source: Source
    folder: Path
    format: str
    maps: str
    readers: int  # threads that read and decode


class Worker:
    """A loaded model at work on a job."""

    def __init__(self, job: Job, encoder: Encoder | None = None) -> None:
        self.job, self.encoder = job, encoder or Encoder(job.settings)
        self.sink = sink_at(job.folder, job.format, job.maps)
        self.ledger = Ledger(job.folder)
        self.ledger.read_listing()

    def do(self, parts: Sequence[int]) -> Iterator[Tally]:
        """Encode, keep and mark these parts; gives the count of each."""
        todo = ((part, self.ledger.records(part)) for part in parts)
        for encoded in encoded_parts(self.encoder, self.job.source, todo, self.job.readers):
            if encoded.rows:
                self.sink.write(encoded)
            self.ledger.mark(encoded.part, encoded.tally)
            yield encoded.tally


def encoded_parts(
    encoder: Encoder, source: Source, todo: Iterator[tuple[int, Sequence[Record]]], readers: int
) -> Iterator[Encoded]:
    """The parts, encoded one after the other, while the next pictures are read and decoded."""

    def stream(pool: Executor) -> Iterator[Batch | End]:
        for part, records in todo:
            yield from batches(encoder, source, part, records, pool)

    rows, began = dict[int, Row](), time.perf_counter()
    with ThreadPoolExecutor(readers, "reading") as pool, closing(ahead(stream(pool))) as items:
        for item in items:
            if isinstance(item, Batch):
                rows |= run(encoder, item)
            else:
                yield assembled(item, rows, time.perf_counter() - began)
                rows, began = {}, time.perf_counter()


def run(encoder: Encoder, batch: Batch) -> dict[int, Row]:
    """The rows of a batch, by their places in the part; their names come later."""
    found = encoder(batch.pictures, batch.grid)
    dense = encoder.ran_dense(batch.grid)
    rows = {}
    for n, place in enumerate(batch.places):
        own = {name: value[n] for name, value in found.items()}
        vectors = {name: value for name, value in own.items() if value.ndim == 1}
        maps = {name: value for name, value in own.items() if value.ndim == 3}
        kept = encoder.kept[n] if encoder.kept else {}
        rows[place] = Row("", batch.keys[n], batch.sizes_px[n], batch.grid, dense, kept, vectors, maps)
    return rows


def assembled(end: End, rows: dict[int, Row], seconds: float) -> Encoded:
    """A part of its rows, in the order of the source, and its counts.

    A picture whose features are not finite is left out; NotFiniteError if those of all are not.
    """
    tally, kept = Tally(left_out=dict(end.left_out), seconds=seconds), []
    for place in sorted(rows):
        row, name = rows[place], end.records[place].id
        if fault := not_finite(row):
            tally.left_out[name] = fault
            continue
        kept.append(replace(row, id=name))
        tally.count(row.grid, row.ran_dense, row.kept)
    if rows and not kept:
        fault = not_finite(next(iter(rows.values())))
        raise NotFiniteError(
            f"of all {len(rows)} pictures from {end.records[0].id} on {fault}: check the weights, or "
            "take --dtype float32"
        )
    return Encoded(end.part, kept, tally)


def not_finite(row: Row) -> str:
    """What of a row is NaN or infinite; "" if nothing is."""
    if not all(value.isfinite().all() for value in row.vectors.values()):
        return "the features are not finite"
    if not all(value.isfinite().all() for value in row.maps.values()):
        return "the map does not fit into its precision (--map-dtype float32 has room)"
    return ""
