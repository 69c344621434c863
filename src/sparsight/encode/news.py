"""What of a source is not in the ledger's listing yet, and whether what is there still holds."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sparsight.encode.ledger import Ledger
from sparsight.encode.listing import Record, records_of
from sparsight.encode.sinks import Sink
from sparsight.encode.sources import Source
from sparsight.errors import ImagesError

if TYPE_CHECKING:
    from pyarrow import Table

READERS = 8  # threads that read files which were touched


@dataclass
class News:
    """A source beside the listing of it that is kept."""

    new: list[Record] = field(default_factory=list)  # to be listed
    moved: dict[str, Record] = field(default_factory=dict)  # by id: listed, and elsewhere or touched now
    parts: set[int] = field(default_factory=set)  # that hold any listed picture of the source
    touched: list[tuple[Record, int]] = field(default_factory=list)  # of the moved, those with a row


def news(ledger: Ledger, current: "Table") -> News:
    """New are pictures that are not listed, and those that were left out and changed since."""
    listed = {
        record.id: (record, part) for part in range(ledger.parts) for record in ledger.records(part)
    }
    done, left, found = ledger.done(), ledger.quarantine(), News()
    for record in records_of(current):
        before, part = listed.get(record.id, (None, -1))
        if before is None or (before != record and record.id in left):
            found.new.append(record)
            continue
        found.parts.add(part)
        if before != record:
            found.moved[record.id] = record
            if part in done:
                found.touched.append((record, part))
    return found


def check_unchanged(
    touched: Sequence[tuple[Record, int]], sink: Sink, source: Source, key: Callable[[bytes], str]
) -> None:
    """ImagesError if the content of a picture that has a row is another now; a new date is none."""
    if not touched:
        return
    keys: dict[str, str] = {}
    for table in sink.read(sorted({part for _, part in touched}), ["id", "key"]):
        keys |= dict(zip(table["id"].to_pylist(), table["key"].to_pylist(), strict=True))

    def same(record: Record) -> bool:
        try:
            return key(source.read(record)) == keys[record.id]
        except ImagesError:
            return False

    records = [record for record, _ in touched]
    with ThreadPoolExecutor(READERS, "checking") as pool:
        answers = pool.map(same, records)
        changed = [record.id for record, ok in zip(records, answers, strict=True) if not ok]
    if changed:
        raise ImagesError(
            f"{len(changed):,} pictures changed since they were encoded, the first: {changed[0]}; what "
            "is there is kept: put them back, or encode into another sink"
        )
