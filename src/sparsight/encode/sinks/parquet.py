"""Parquet: features/PART.parquet, read by pyarrow, datasets, pandas, DuckDB, ..."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsight.encode.rows import Encoded, table_of
from sparsight.encode.sinks.base import Sink
from sparsight.encode.sinks.commit import commit
from sparsight.encode.sinks.maps import write_maps


class Parquet(Sink):
    """One file for each part."""

    def write(self, encoded: Encoded) -> None:
        """Maps first, then the table that names them."""
        from pyarrow import parquet

        table = table_of(
            encoded, write_maps(self.folder, encoded, self.maps) if encoded.has_maps else None
        )
        commit(self.path(encoded.part), lambda place: parquet.write_table(table, place))

    def path(self, part: int) -> Path:
        """Where a part is."""
        return self.folder / "features" / f"{part:06d}.parquet"

    def read(self, parts: Sequence[int], columns: list[str]) -> Iterator[Any]:
        """File by file."""
        from pyarrow import parquet

        for part in parts:
            yield parquet.read_table(self.path(part), columns=columns)
