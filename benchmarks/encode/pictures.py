"""What the benchmarks of bulk encoding encode: generated scenes as files, and a run."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from sparsight import SVE, EarlyExit
from sparsight.attach import save
from sparsight.demo.scenes import draw
from sparsight.plan import Plan

SEED = 90_000  # of the scenes: apart from those of the other benchmarks
MAX_TOKENS = 4096  # a scene of 1024 x 1024 keeps its size


def pictures(folder: Path, count: int, sizes: list[tuple[int, int]], broken: int) -> dict[str, bytes]:
    """The files by name, drawn once and kept; every so many is broken, each second of these is cut."""
    folder.mkdir(parents=True, exist_ok=True)
    spoiled = [n * count // broken for n in range(broken)] if broken else []
    for number in range(count):
        path = folder / f"{number:05}.jpg"
        if path.exists():
            continue
        buffer = io.BytesIO()
        Image.fromarray(draw(SEED + number, sizes[number % len(sizes)]).image).save(
            buffer, "JPEG", quality=90
        )
        content = buffer.getvalue()
        if number in spoiled:
            content = content[: len(content) // 2] if spoiled.index(number) % 2 else b"no picture"
        path.write_bytes(content)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def sources(work: Path, files: dict[str, bytes]) -> dict[str, Path]:
    """The same pictures as a folder, a parquet file and tar shards."""
    table = work / "pictures.parquet"
    parquet.write_table(pa.table({"image": list(files.values())}), table, row_group_size=100)
    shards = work / "shards"
    shards.mkdir(exist_ok=True)
    names = list(files)
    for first in range(0, len(names), 500):
        with tarfile.open(shards / f"{first:06}.tar", "w") as tar:
            for name in names[first : first + 500]:
                member = tarfile.TarInfo(name)
                member.size = len(files[name])
                tar.addfile(member, io.BytesIO(files[name]))
    return {"folder": work / "pictures", "parquet": table, "shards": shards}


def run_of(work: Path) -> Path:
    """The demo's encoder with sparse attention and tokens that leave: no calibration is needed."""
    methods = (SVE(layers=range(3), keep=0.1875), EarlyExit(after=(2,), keep=0.4, completion="last"))
    return save(Plan(methods=methods, source="demo", resolution=(1024, 1024)), work / "run")
