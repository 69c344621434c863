"""Pictures in tables: parquet files with bytes or paths, and folders that `datasets` saved."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sparsight.encode.listing import Record, readable
from sparsight.encode.sources.base import Source, UnreadError
from sparsight.errors import ImagesError
from sparsight.extras import pyarrow

NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "bytes", "path", "file", "file_name")
LOCK = threading.Lock()  # of the cache: two threads that miss would read the same group twice


@dataclass(frozen=True)
class Tables(Source):
    """A parquet file, a folder of them, or a folder of `datasets.Dataset.save_to_disk`."""

    single: bool = False

    def records(self) -> Iterator[Record]:
        """Named by file and row, or as `id_column` says."""
        for path in files_of(Path(self.place)):
            status, column = path.stat(), self.picture_column(path)
            assert column is not None
            if self.id_column is None:
                names: Any = (f"{path.name}:{row}" for row in range(rows_of(path)))
            else:
                names = (str(name) for name in whole(path, self.id_column).to_pylist())
            for row, name in enumerate(names):
                yield Record(readable(name), self.file_of(path), row, status.st_size, status.st_mtime_ns)

    def picture_column(self, path: Path) -> str:
        """The column that holds pictures: the one that was named, or the first that can."""
        schema = schema_of(path)
        missing = [n for n in (self.column, self.id_column) if n is not None and n not in schema.names]
        if missing:
            raise ImagesError(f"{path} has no column {missing[0]!r}: it has {', '.join(schema.names)}")
        if self.column is not None:
            return self.column
        fitting = [field.name for field in schema if holds_pictures(field)]
        if not fitting:
            raise ImagesError(
                f"{path} has no column of pictures (bytes, paths, or both, called image "
                f"or so): name it with --column, one of {', '.join(schema.names)}"
            )
        return min(fitting, key=lambda name: NAMES.index(name) if name in NAMES else len(NAMES))

    def bytes_of(self, path: Path, record: Record) -> bytes:
        """The cell's bytes, or those of the file whose path it holds."""
        value = cell(path, self.picture_column(path), record.at, record.stamp)
        if isinstance(value, dict):  # as `datasets` stores an image
            value = value.get("bytes") or value.get("path")
        if value is None:
            raise UnreadError("the table has no picture in this row")
        if isinstance(value, bytes):
            return value
        try:
            return (path.parent / str(value)).read_bytes()
        except OSError as error:
            raise UnreadError(f"cannot be read: {error.strerror} ({value})") from None


def holds_pictures(field: Any) -> bool:
    """Whether a column can hold pictures: binary, a struct with bytes, or text with a usual name."""
    types = pyarrow().types
    kind = field.type
    if types.is_struct(kind):
        return any(kind.field(i).name in ("bytes", "path") for i in range(kind.num_fields))
    if types.is_string(kind) or types.is_large_string(kind):
        return field.name in NAMES
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def files_of(place: Path) -> list[Path]:
    """The files of a table, in the order of its rows."""
    if place.is_file():
        return [place]
    if (place / "dataset_dict.json").is_file():
        splits = json.loads((place / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        raise ImagesError(
            f"{place} holds several splits: give one of {', '.join(splits)}, as a folder in it"
        )
    if (place / "state.json").is_file():
        state = json.loads((place / "state.json").read_text(encoding="utf-8"))
        return [place / file["filename"] for file in state["_data_files"]]
    return parquets(place)


def parquets(folder: Path) -> list[Path]:
    """Those of a folder, at any depth, but what only describes the files beside it."""
    found = folder.rglob("*.parquet")
    return sorted(p for p in found if p.name != "metadata.parquet" and not p.name.startswith("."))


def schema_of(path: Path) -> Any:
    """The columns of one file."""
    file = opened(path, path.stat().st_mtime_ns)
    return getattr(file, "schema_arrow", None) or file.schema


def rows_of(path: Path) -> int:
    """How many rows one file has."""
    file = opened(path, path.stat().st_mtime_ns)
    return int(file.metadata.num_rows if hasattr(file, "metadata") else file.num_rows)


@lru_cache(maxsize=64)
def opened(path: Path, stamp: int) -> Any:
    """A parquet file, or the Arrow table of another one, which stays on the disk."""
    pa = pyarrow()
    try:
        if path.suffix == ".arrow":
            return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        from pyarrow import parquet

        return parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ImagesError(f"{path} cannot be read: {' '.join(str(error).split())[:160]}") from None


def whole(path: Path, column: str) -> Any:
    """One column of a file."""
    file = opened(path, path.stat().st_mtime_ns)
    return (file.read(columns=[column]) if hasattr(file, "read") else file)[column]


def cell(path: Path, column: str, row: int, stamp: int) -> Any:
    """One value."""
    with LOCK:
        file = opened(path, stamp)
        if not hasattr(file, "metadata"):
            return file[column][row].as_py()
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < first + rows:
                return group_of(path, column, group, stamp)[row - first].as_py()
            first += rows
    raise UnreadError(f"the table has no row {row}")


@lru_cache(maxsize=2)
def group_of(path: Path, column: str, group: int, stamp: int) -> Any:
    """One column of one row group; pictures are read in order, so that each is read once."""
    return opened(path, stamp).read_row_group(group, columns=[column])[column]
