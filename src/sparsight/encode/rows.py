"""What a part becomes: one row for each picture, as a table of Arrow, and its maps beside it.

id, key            its name in the source; its content, the plan, preprocessing and precision hashed
part               which part it was encoded with
height, width      of the picture itself, upright, in pixels
grid_rows, grid_columns   of the patch tokens it became
ran_dense          whether no layer ran sparsely on it, because it has so few tokens
pooled, cls, tap*  vectors
map                the file with its maps, where there are any
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sparsight.encode.sizes import Grid
from sparsight.encode.tally import Tally
from sparsight.extras import pyarrow

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Row:
    """One picture."""

    id: str
    key: str
    size_px: tuple[int, int]
    grid: Grid
    ran_dense: bool
    kept: dict[str, float] = field(default_factory=dict)  # the share, by method, where it depends on it
    vectors: dict[str, "Tensor"] = field(default_factory=dict)  # name -> (c,)
    maps: dict[str, "Tensor"] = field(default_factory=dict)  # name -> (rows, columns, c)


@dataclass
class Encoded:
    """A part: its rows in the order of the source, and what there is to say of it."""

    part: int
    rows: list[Row]
    tally: Tally

    @property
    def has_maps(self) -> bool:
        """Whether there are maps beside the table."""
        return any(row.maps for row in self.rows)


def plain(row: Row, part: int, place: str | None) -> dict[str, Any]:
    """All of a row but its vectors and maps; `place` is the file of the maps."""
    facts = {
        "id": row.id, "key": row.key, "part": part, "height": row.size_px[0], "width": row.size_px[1],
        "grid_rows": row.grid[0], "grid_columns": row.grid[1], "ran_dense": row.ran_dense,
    }  # fmt: skip
    return facts | ({"map": place} if place else {})


def table_of(encoded: Encoded, places: list[str] | None) -> Any:
    """The rows as an Arrow table; there must be one.  `places` are the files of the maps, by row."""
    import torch

    pa = pyarrow()
    types = {"part": pa.int32(), "height": pa.int32(), "width": pa.int32(), "grid_rows": pa.int32(),
             "grid_columns": pa.int32(), "ran_dense": pa.bool_()}  # fmt: skip
    lines = [
        plain(row, encoded.part, places[n] if places else None) for n, row in enumerate(encoded.rows)
    ]
    columns = {
        name: pa.array([line[name] for line in lines], types.get(name, pa.string())) for name in lines[0]
    }
    for name, first in encoded.rows[0].vectors.items():
        values = torch.stack([row.vectors[name] for row in encoded.rows]).flatten().numpy()
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), len(first))
    return pa.table(columns)
