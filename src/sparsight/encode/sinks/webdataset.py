"""WebDataset: features/PART.tar with ROW.json, ROW.pooled.npy, ROW.map.npy, ..."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsight.encode.rows import Encoded, plain
from sparsight.encode.sinks.base import Sink
from sparsight.encode.sinks.commit import commit
from sparsight.extras import pyarrow


class WebDataset(Sink):
    """One tar file for each part, maps in it."""

    def write(self, encoded: Encoded) -> None:
        """Members in the order of the rows, and nothing in them that changes from run to run."""
        commit(self.path(encoded.part), lambda place: self._pack(place, encoded))

    def _pack(self, place: Path, encoded: Encoded) -> None:
        with tarfile.open(place, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, row in enumerate(encoded.rows):
                stem = f"{encoded.part:06d}-{number:04d}"
                _add(tar, f"{stem}.json", json.dumps(plain(row, encoded.part, None)).encode())
                for name, value in (row.vectors | row.maps).items():
                    buffer = io.BytesIO()
                    np.save(buffer, value.numpy())
                    _add(tar, f"{stem}.{name}.npy", buffer.getvalue())

    def path(self, part: int) -> Path:
        """Where a part is."""
        return self.folder / "features" / f"{part:06d}.tar"

    def read(self, parts: Sequence[int], columns: list[str]) -> Iterator[Any]:
        """Shard by shard."""
        pa = pyarrow()
        for part in parts:
            found: dict[str, list[Any]] = {name: [] for name in columns}
            with tarfile.open(self.path(part)) as tar:
                for member in tar:
                    data, name = tar.extractfile(member), member.name.partition(".")[2]
                    assert data is not None
                    if name == "json":
                        facts = json.load(data)
                        for key in found.keys() & facts.keys():
                            found[key].append(facts[key])
                    elif name.removesuffix(".npy") in found:
                        found[name.removesuffix(".npy")].append(np.load(io.BytesIO(data.read())))
            yield pa.table({key: _column(values) for key, values in found.items()})


def _column(values: list[Any]) -> Any:
    pa = pyarrow()
    if values and isinstance(values[0], np.ndarray):
        flat = pa.array(np.concatenate(values), pa.float32())
        return pa.FixedSizeListArray.from_arrays(flat, len(values[0]))
    return pa.array(values)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
