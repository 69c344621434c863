"""The ledger of a sink: what it holds, what was listed, and which parts are there.

    sink.json               what decides the features, and how they are stored; the same for all rows
    listing/000.parquet     the source when encoding began, cut into parts; 001, ...: what was new later
    done/000000.json        part 0 is there whole: its counts, and the pictures left out with reasons
    quarantine.parquet      all pictures left out, with the reason; written anew from the above
    .lock                   held while anything writes here; let go of by the system, however that ends

A part's marker is written last.  What has no marker does not count: it is encoded again, over whatever
an interrupt left.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsight.encode.listing import Record, records_of, table_of
from sparsight.encode.tally import Tally
from sparsight.errors import SparsightError
from sparsight.extras import extra, pyarrow
from sparsight.files import check_writable, write_atomically, write_json

SINK_FILE, TYPE, VERSION = "sink.json", "sparsight.sink", 1


class Ledger:
    """The ledger in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.segments: list[Any] = []  # Arrow tables
        self.starts: list[int] = []  # the first part of each segment
        self.sizes: list[int] = []  # pictures a part, of each segment

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While in here, nobody else writes to the sink; SparsightError if somebody does now."""
        filelock = extra("filelock")
        if self.folder.is_dir() and not (self.folder / SINK_FILE).exists():
            others = [path.name for path in self.folder.iterdir() if not path.name.startswith(".")]
            if others:
                raise SparsightError(
                    f"{self.folder} holds other things ({others[0]}), no features: choose another --out"
                )
        check_writable(self.folder)
        try:
            with filelock.FileLock(self.folder / ".lock", timeout=0):
                yield
        except filelock.Timeout:
            raise SparsightError(
                f"another run is writing to {self.folder}: wait for it, or choose another --out"
            ) from None

    def begin(self, facts: dict[str, Any]) -> None:
        """Say what the sink holds, or check that it holds that; SparsightError with what differs."""
        path = self.folder / SINK_FILE
        if not path.exists():
            write_json(path, {"type": TYPE, "version": VERSION, "data": facts})
        held = self.facts()
        for name, value in json.loads(json.dumps(facts["features"])).items():
            if held["features"].get(name) != value:
                raise SparsightError(
                    f"{self.folder} holds features of other {name} "
                    f"({_short(held['features'].get(name))} there, {_short(value)} here), which do not "
                    "mix: choose another --out"
                )
        if held["format"] != facts["format"]:
            raise SparsightError(f"{self.folder} is of format {held['format']}, not {facts['format']}")
        self.read_listing()

    def facts(self) -> dict[str, Any]:
        """What sink.json says; SparsightError if there is none, or one of another kind."""
        path = self.folder / SINK_FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["type"] != TYPE or found["version"] != VERSION:
                raise ValueError("of another version")
            return dict(found["data"])
        except FileNotFoundError:
            raise SparsightError(
                f"{self.folder} is no sink of sparsight encode: {SINK_FILE} is missing"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SparsightError(f"{path} cannot be read: {error}") from None

    def read_listing(self) -> None:
        """All segments that are there."""
        parquet, pa = extra("pyarrow.parquet"), pyarrow()
        self.segments, self.starts, self.sizes = [], [], []
        for path in sorted((self.folder / "listing").glob("*.parquet")):
            try:
                table = parquet.read_table(path)
                size = int(table.schema.metadata[b"part_size"])
            except (OSError, pa.ArrowException, KeyError, TypeError) as error:
                raise SparsightError(f"{path} is damaged: {str(error)[:120]}") from None
            self._hold(table, size)

    def _hold(self, table: Any, size: int) -> None:
        self.starts.append(self.parts)
        self.segments.append(table)
        self.sizes.append(size)

    def add(self, table: Any, part_size: int) -> None:
        """Keep what is to be encoded, cut into parts."""
        self._write(len(self.segments), table, part_size)
        self._hold(table, part_size)

    def update(self, moved: dict[str, Record]) -> None:
        """Where pictures are now; the last time that each is listed."""
        for number in reversed(range(len(self.segments))):
            before = records_of(self.segments[number])
            after = [moved.pop(record.id, record) for record in before]
            if after != before:
                self.segments[number] = table_of(after, str(self.folder))
                self._write(number, self.segments[number], self.sizes[number])

    def _write(self, number: int, table: Any, part_size: int) -> None:
        from pyarrow import parquet

        table = table.replace_schema_metadata({"part_size": str(part_size)})
        path = self.folder / "listing" / f"{number:03d}.parquet"
        write_atomically(path, lambda place: parquet.write_table(table, place))

    @property
    def parts(self) -> int:
        """How many parts there are in all segments."""
        if not self.segments:
            return 0
        return self.starts[-1] + -(-self.segments[-1].num_rows // self.sizes[-1])

    def records(self, part: int) -> list[Record]:
        """The pictures of a part."""
        which = max(n for n, start in enumerate(self.starts) if start <= part)
        first = (part - self.starts[which]) * self.sizes[which]
        return records_of(self.segments[which].slice(first, self.sizes[which]))

    def mark(self, part: int, tally: Tally) -> None:
        """A part is there whole."""
        write_json(self.folder / "done" / f"{part:06d}.json", tally.as_json())

    def done(self) -> dict[int, Tally]:
        """The parts that are there, in order."""
        found = sorted((self.folder / "done").glob("*.json"))
        return {int(p.stem): Tally.from_json(json.loads(p.read_text(encoding="utf-8"))) for p in found}

    def quarantine(self) -> dict[str, str]:
        """Why each picture that is not there was left out; one that came good later is there."""
        left: dict[str, str] = {}
        for part, tally in self.done().items():
            if self.segments and part >= [*self.starts, 0, 0][1] > 0:
                for record in self.records(part):
                    left.pop(record.id, None)
            left |= tally.left_out
        return left

    def write_quarantine(self) -> dict[str, str]:
        """The table of the same; returns it."""
        from pyarrow import parquet

        pa, left = pyarrow(), self.quarantine()
        columns = {"id": list(left), "reason": list(left.values())}
        table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
        write_atomically(self.folder / "quarantine.parquet", lambda p: parquet.write_table(table, p))
        return left


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."
