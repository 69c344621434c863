"""Lance: one growing table, features.lance, by the package pylance."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsight.encode.rows import Encoded, table_of
from sparsight.encode.sinks.base import Sink
from sparsight.encode.sinks.maps import write_maps
from sparsight.errors import SparsightError
from sparsight.extras import extra


class Lance(Sink):
    """A version of the table for each part."""

    def write(self, encoded: Encoded) -> None:
        """Rows that an interrupt left without a marker go first: Lance appends, and never replaces."""
        lance = extra("lance")
        table = table_of(
            encoded, write_maps(self.folder, encoded, self.maps) if encoded.has_maps else None
        )
        try:
            if not self.path.exists():
                lance.write_dataset(table, self.path)
                return
            found, mine = lance.dataset(self.path), f"part = {encoded.part}"
            if found.count_rows(filter=mine):
                found.delete(mine)
            lance.write_dataset(table, self.path, mode="append")
        except (OSError, RuntimeError, ValueError) as error:
            raise SparsightError(
                f"cannot write {self.path}: {' '.join(str(error).split())[:160]}"
            ) from None

    @property
    def path(self) -> Path:
        """The table."""
        return self.folder / "features.lance"

    def read(self, parts: Sequence[int], columns: list[str]) -> Iterator[Any]:
        """In batches, less rows of parts that are not whole."""
        from pyarrow import compute

        if self.path.exists():
            whole = set(parts)
            wanted = sorted({*columns, "part"})
            for batch in extra("lance").dataset(self.path).to_batches(columns=wanted):
                keep = [part in whole for part in batch["part"].to_pylist()]
                yield compute.filter(batch, keep).select(columns)
