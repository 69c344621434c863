"""Maps of patch tokens beside a table: one safetensors file for a part, or one .npy for each map."""

import os
import shutil
from pathlib import Path

from sparsight.encode.rows import Encoded
from sparsight.encode.sinks.commit import commit
from sparsight.errors import SparsightError


def write_maps(folder: Path, encoded: Encoded, kind: str) -> list[str]:
    """Write the maps of a part under `folder`/maps; returns for each row where they are, below it.

    In a safetensors file the map of a picture is the tensor "map/ID", those of tapped layers
    "map_tap<layer>/ID"; as .npy they are the files ROW.map.npy in the folder of the part.
    """
    name = f"{encoded.part:06d}"
    if kind == "npy":
        _write_arrays(folder / "maps" / name, encoded)
        return [f"maps/{name}/{row:04d}" for row in range(len(encoded.rows))]
    from safetensors.torch import save_file

    tensors = {
        f"{column}/{row.id}": value.contiguous()
        for row in encoded.rows
        for column, value in row.maps.items()
    }
    file = f"{name}.safetensors"
    commit(folder / "maps" / file, lambda place: save_file(tensors, place))
    return [f"maps/{file}"] * len(encoded.rows)


def _write_arrays(place: Path, encoded: Encoded) -> None:
    """A folder of arrays, whole or not at all."""
    import numpy as np

    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(encoded.rows):
            for column, value in row.maps.items():
                np.save(temporary / f"{number:04d}.{column}.npy", value.numpy())
        shutil.rmtree(place, ignore_errors=True)
        os.replace(temporary, place)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise SparsightError(f"cannot write {place}: {error}") from None
