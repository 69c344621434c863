"""From the records of a part to batches of one grid each, read and decoded."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from sparsight.encode.encoder import Encoder
from sparsight.encode.listing import Record
from sparsight.encode.sizes import Grid
from sparsight.encode.sources import Source, UnreadError
from sparsight.errors import ImagesError, SparsightError

if TYPE_CHECKING:
    from torch import Tensor

HELD_BYTES = (
    128 << 20
)  # of a part's files, kept from the first look to the decoding; more are read again


@dataclass
class Seen:
    """What a first look at a picture's file told."""

    key: str = ""
    grid: Grid | None = None
    data: bytes | None = None
    reason: str = ""  # why it is left out
    unread: bool = False  # its bytes were not to be had


@dataclass
class Batch:
    """Pictures of one grid, by their places among the records of the part."""

    grid: Grid
    places: list[int]
    keys: list[str]
    sizes_px: list[tuple[int, int]]
    pictures: "Tensor"  # (b, 3, h, w)


@dataclass
class End:
    """A part has no more batches; these of its pictures have no row."""

    part: int
    records: Sequence[Record]
    left_out: dict[str, str] = field(default_factory=dict)


def batches(
    encoder: Encoder, source: Source, part: int, records: Sequence[Record], pool: Executor
) -> Iterator[Batch | End]:
    """The batches of a part and its end.

    Which pictures share a batch depends on their order and grids alone.  One that cannot be decoded is
    missing in its batch, and nobody takes its place.  SparsightError if no file can be read at all.
    """
    held = accumulate(record.length for record in records)
    looks = list(pool.map(lambda r, sum_: look(encoder, source, r, sum_ <= HELD_BYTES), records, held))
    if len(looks) > 1 and all(seen.unread for seen in looks):
        raise SparsightError(
            f"none of {len(looks)} pictures from {records[0].id} on is there ({looks[0].reason}): is "
            "the source still where it was?  What was encoded is kept"
        )
    buckets = dict[Grid, list[int]]()
    for place, seen in enumerate(looks):
        if seen.grid is not None:
            buckets.setdefault(seen.grid, []).append(place)

    for grid, places in buckets.items():
        size = encoder.settings.batch_of(grid)
        for first in range(0, len(places), size):
            chosen = places[first : first + size]
            found = pool.map(lambda n: _decoded(encoder, source, records[n], looks[n]), chosen)
            good = [(place, *picture) for place, picture in zip(chosen, found, strict=True) if picture]
            if good:
                yield _batch(grid, good, looks)
    reasons = {record.id: seen.reason for record, seen in zip(records, looks, strict=True)}
    yield End(part, records, {name: reason for name, reason in reasons.items() if reason})


def look(encoder: Encoder, source: Source, record: Record, hold: bool) -> Seen:
    """A first look: its key and grid, or why it has none; with its bytes if they are to be held."""
    try:
        data = source.read(record)
        return Seen(encoder.key(data), encoder.grid(data), data if hold else None)
    except ImagesError as error:
        return Seen(reason=str(error), unread=isinstance(error, UnreadError))


def _decoded(
    encoder: Encoder, source: Source, record: Record, seen: Seen
) -> "tuple[Tensor, tuple[int, int]] | None":
    """The picture and its own size; None, and the reason in `seen`, if it cannot be read."""
    assert seen.grid is not None
    try:
        data = seen.data if seen.data is not None else source.read(record)
        if seen.data is None and encoder.key(data) != seen.key:
            raise ImagesError("changed while it was read")
        seen.data = None
        return encoder.picture(data, seen.grid)
    except ImagesError as error:
        seen.reason = str(error)
        return None


def _batch(grid: Grid, good: "list[tuple[int, Tensor, tuple[int, int]]]", looks: list[Seen]) -> Batch:
    import torch

    places, pictures, sizes = zip(*good, strict=True)
    return Batch(grid, list(places), [looks[p].key for p in places], list(sizes), torch.stack(pictures))
