"""The listing of a source: where each picture is, in a fixed order, as a table that is kept.

id      what the picture is called; once in a source
file    where its bytes are, below the source's place or absolute; as bytes, for names can be any
at      offset in the file, or row in the table; 0 where the file is the picture
length  bytes of the picture where that is known, else of the file
stamp   when the file was last changed, in nanoseconds
"""

import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from sparsight.errors import ImagesError
from sparsight.extras import pyarrow

if TYPE_CHECKING:
    from pyarrow import Table


class Record(NamedTuple):
    """One line of a listing."""

    id: str
    file: bytes
    at: int
    length: int
    stamp: int


def readable(name: str) -> str:
    r"""A name of a file as Unicode; bytes that are none as \xNN, so that two names stay two."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def table_of(records: Iterable[Record], what: str) -> "Table":
    """The listing as an Arrow table; ImagesError if it is empty or an id is there twice."""
    pa = pyarrow()
    found = list(records)
    if not found:
        raise ImagesError(f"{what} holds no picture")
    names = [record.id for record in found]
    if len(set(names)) < len(names):
        twice, times = Counter(names).most_common(1)[0]
        raise ImagesError(f"{what} names {twice!r} {times} times: every picture needs a name of its own")
    kinds = dict(zip(Record._fields, (pa.string(), pa.binary(), *[pa.int64()] * 3), strict=True))
    columns = dict(zip(Record._fields, zip(*found, strict=True), strict=True))
    return pa.table({name: pa.array(columns[name], kind) for name, kind in kinds.items()})


def records_of(table: Any) -> list[Record]:
    """The lines of an Arrow table."""
    return [Record(**line) for line in table.select(list(Record._fields)).to_pylist()]
