"""Bulk encoding held to what it promises: killed and resumed, beside a plain loop, sparse beside dense.

`python benchmarks/encoding.py` writes benchmarks/results/encoding-cpu.json: generated scenes in three
sizes, some of them broken, encoded from a folder, parquet and tar shards with the driver killed at
random moments; the rate beside a plain loop over the same model and batches; and sparse beside dense,
decoding included.  `--pictures 24 --sizes 256x256,256x384,128x128` is done in a minute.
"""

import argparse
import io
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import harness
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet

from sparsight import SVE, EarlyExit, apply
from sparsight.attach import save
from sparsight.demo import encoder as demo
from sparsight.demo.scenes import draw
from sparsight.encode import EncoderSettings
from sparsight.encode.encoder import Encoder
from sparsight.encode.sources import source_of
from sparsight.encode.versus import compare_dense
from sparsight.files import write_json
from sparsight.images import parse_resolution
from sparsight.plan import Plan
from sparsight.stages import timing

SEED = 90_000  # of the scenes: apart from those of the other benchmarks
MAX_TOKENS = 4096  # a scene of 1024 x 1024 keeps its size
REPEATS = 5


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


def command(run: Path, source: Path, out: Path, part: int, more: list[str]) -> list[str]:
    words = [sys.executable, "-m", "sparsight", "encode", run, "--images", source, "--out", out]
    words += ["--max-tokens", MAX_TOKENS, "--part", part, *more]
    return [str(word) for word in words]


def killed(line: list[str], out: Path, kills: int, seconds: float, rng: random.Random) -> list[int]:
    """Run it, killed with SIGKILL `kills` times at random moments; parts that were there each time."""
    there = []
    for _ in range(kills):
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
        began, limit = len(list((out / "done").glob("*"))), time.monotonic() + 600
        while time.monotonic() < limit and len(list((out / "done").glob("*"))) == began:
            if process.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
        there.append(len(list((out / "done").glob("*"))))
    subprocess.run(line, check=True, stderr=subprocess.DEVNULL)
    return there


def content(out: Path) -> dict[str, bytes]:
    """What counts of a sink."""
    return {path.name: path.read_bytes() for path in sorted((out / "features").iterdir())}


def facts(out: Path) -> dict[str, Any]:
    """Ids that are there, how often, and what is quarantined."""
    ids = [
        i for path in (out / "features").iterdir() for i in parquet.read_table(path)["id"].to_pylist()
    ]
    left = parquet.read_table(out / "quarantine.parquet").to_pylist()
    return {
        "rows": len(ids), "distinct": len(set(ids)), "quarantined": len(left),
        "reasons": sorted({row["reason"].partition(" (")[0] for row in left}),
    }  # fmt: skip


def exactly_once(work: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each source and driver: interrupted against straight through."""
    files = pictures(work / "pictures", options.pictures, options.sizes, options.broken)
    run, rng, rows = run_of(work), random.Random(0), []
    drivers = {"local": ["--threads", "1"]}
    if options.ray:
        drivers["ray"] = ["--ray", "--actors", str(os.cpu_count()), "--threads", "1"]
    for name, source in sources(work, files).items():
        straight = work / f"straight-{name}"
        shutil.rmtree(straight, ignore_errors=True)
        began = time.perf_counter()
        line = command(run, source, straight, options.part, drivers["local"])
        subprocess.run(line, check=True, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        for driver, more in drivers.items():
            out = work / f"{driver}-{name}"
            shutil.rmtree(out, ignore_errors=True)
            line = command(run, source, out, options.part, more)
            there = killed(line, out, options.kills, seconds / (2 * options.kills), rng)
            same = content(out) == content(straight)
            rows.append(
                {"source": name, "driver": driver, "kills": options.kills, "parts_at_kill": there,
                 "bitwise_equal": same, "pictures": len(files), **facts(out)}
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def rates(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Pictures a second of the encoder and of a plain loop over the same model and batches, in turns."""
    from sparsight.encode.work import encoded_parts

    run = run_of(work)
    settings = EncoderSettings(model=str(run), max_tokens=MAX_TOKENS)
    encoder, source = Encoder(settings), source_of(str(work / "pictures"))
    records = list(source.records())[: options.timed]
    model = apply(demo.load(), str(run)).eval()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def loop() -> None:
        buckets: dict[tuple[int, int], list[bytes]] = {}
        for record in records:
            data = source.read(record)
            try:
                buckets.setdefault(encoder.grid(data), []).append(data)
            except Exception:
                continue
        with torch.inference_mode():
            for grid, found in buckets.items():
                size = settings.batch_of(grid)
                for first in range(0, len(found), size):
                    good = []
                    for data in found[first : first + size]:
                        try:
                            good.append(encoder.picture(data, grid)[0])
                        except Exception:
                            continue
                    if good:
                        tokens = model.forward_features(torch.stack(good))
                        tokens[:, 0].float().cpu(), tokens[:, 1:].float().mean(1).cpu()

    arms = {
        "plain loop": loop,
        "encoder": lambda: list(encoded_parts(encoder, source, iter([(0, records)]), 1)),
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(REPEATS):
        for name in sorted(arms, reverse=bool(turn % 2)):
            began = time.perf_counter()
            arms[name]()
            times[name].append(time.perf_counter() - began)
    loop_s, encoder_s = (statistics.median(times[name]) for name in arms)
    return {
        "pictures": len(records), "seconds": times, "share_of_loop": loop_s / encoder_s,
        "peak_memory_above_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3,
        "compare_dense": compare_dense(encoder, source, records, 1),
    }  # fmt: skip


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--broken", type=int, default=20)
    parser.add_argument("--sizes", default="512x512,768x1024,1024x1024", help="height x width, ...")
    parser.add_argument("--part", type=int, default=100, help="pictures a part")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--timed", type=int, default=60, help="pictures of the timings")
    parser.add_argument("--ray", action="store_true", help="on Ray too")
    parser.add_argument("--work", type=Path, default=Path("runs/encoding"))
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "encoding-cpu.json")
    options = parser.parse_args()
    options.sizes = [parse_resolution(size) for size in options.sizes.split(",")]
    return options


if __name__ == "__main__":
    options = parsed()
    result: dict[str, Any] = {"exactly_once": exactly_once(options.work, options)}
    result["rates"] = rates(options.work, options)
    result["protocol"] = timing.setting(torch.device("cpu"), torch.float32) | {
        "command": "python benchmarks/encoding.py", "max_tokens": MAX_TOKENS,
        "sizes": [list(size) for size in options.sizes], "broken": options.broken,
    }  # fmt: skip
    write_json(options.out, result)
    print(result["rates"])
