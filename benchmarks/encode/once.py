"""Bulk encoding killed and resumed: every picture once, bit by bit what an uninterrupted run has.

`python -m benchmarks.encode.once [--ray]` writes benchmarks/results/encode-once-cpu.json: generated
scenes in three sizes, some of them broken, from a folder, parquet and tar shards, by each driver, killed
with SIGKILL at random moments and started again.  `--pictures 24` is done in a minute.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks import harness
from benchmarks.encode.pictures import MAX_TOKENS, pictures, run_of, sources
from pyarrow import parquet

from sparsight.files import write_json
from sparsight.images import parse_resolution
from sparsight.stages import timing


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


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--broken", type=int, default=20)
    parser.add_argument("--sizes", default="256x256,256x384,384x384", help="height x width, ...")
    parser.add_argument("--part", type=int, default=100, help="pictures a part")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--ray", action="store_true", help="on Ray too")
    parser.add_argument("--work", type=Path, default=Path("runs/encode-once"))
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "encode-once-cpu.json")
    options = parser.parse_args()
    options.sizes = [parse_resolution(size) for size in options.sizes.split(",")]
    return options


if __name__ == "__main__":
    options = parsed()
    rows = exactly_once(options.work, options)
    protocol = timing.setting(torch.device("cpu"), torch.float32) | {
        "command": "python -m benchmarks.encode.once" + " --ray" * options.ray,
        "max_tokens": MAX_TOKENS,
        "sizes": [list(size) for size in options.sizes],
        "broken": options.broken,
    }
    write_json(options.out, {"protocol": protocol, "rows": rows})
