"""What of a source is not in the ledger's listing yet, and whether what is there still holds."""

from typing import TYPE_CHECKING

from sparsight.encode.ledger import Ledger
from sparsight.encode.listing import Record, records_of
from sparsight.errors import ImagesError

if TYPE_CHECKING:
    from pyarrow import Table


def news(ledger: Ledger, current: "Table", single: bool) -> tuple[list[Record], set[int]]:
    """The records that are to be listed, and the parts that hold any of the others.

    New are those that are not listed, and files that changed since they were listed and have no row:
    repaired ones, or ones whose turn had not come.  ImagesError for one that has a row, since that is
    of what it was; `single` says whether a change concerns one picture alone.
    """
    listed: dict[str, tuple[int, int, int]] = {}  # id -> (length, stamp, part), of the last time
    for part in range(ledger.parts):
        for record in ledger.records(part):
            listed[record.id] = (record.length, record.stamp, part)
    done, left = ledger.done(), ledger.quarantine()
    found: list[Record] = []
    changed: list[str] = []
    parts: set[int] = set()
    for record in records_of(current):
        if record.id not in listed:
            found.append(record)
            continue
        *facts, part = listed[record.id]
        if facts == [record.length, record.stamp]:
            parts.add(part)
        elif single and (record.id in left or part not in done):
            found.append(record)
        else:
            changed.append(record.id)
    if changed:
        raise ImagesError(
            f"{len(changed):,} pictures changed since they were encoded, the first: {changed[0]}; what "
            "is there is kept: put them back, or encode into another sink"
        )
    return found, parts
