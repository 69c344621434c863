"""One protocol for every benchmark: build the arms, warm up, interleave, and record what failed and why.

A case is a dictionary of arms, each a function that builds what is timed.  One that cannot be built or
run (a missing dtype or package, no memory, a kernel unfit for the size, a compile cache that cannot be
written) is a hole in the result, with its reason, and the others go on.  What a result was made from is
stored with it, so that `benchmarks/run.py` reruns only what changed.
"""

import gc
import hashlib
import os
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sparsight.files import write_json
from sparsight.stages import timing

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SPEED_DECIDERS = ("families", "methods", "ops", "attach.py", "stages/timing.py", "stages/measure.py")
COMPILED = "compiled"  # in the name of an arm that is
Build = Callable[[], Callable[[], Any]]


class Hole(Exception):
    """Why an arm is not measured here."""


def limit_memory() -> None:
    """Let an allocation beyond the machine's memory fail as an error, not kill the process."""
    total = resource.getpagesize() * os.sysconf("SC_PHYS_PAGES")
    resource.setrlimit(resource.RLIMIT_AS, (total, resource.getrlimit(resource.RLIMIT_AS)[1]))


def measure(
    arms: Mapping[str, Build],
    budget_s: float,
    what: str,
    device: torch.device,
    most: int = 9,
    least: int = 3,
) -> list[dict[str, Any]]:
    """A row for each arm: latency or the reason of a hole, memory, FLOPs.

    Repeats are as many as fit into `budget_s`, from `least` to `most`; the first pass, which may
    compile, is the warm-up and does not count.
    """
    calls: dict[str, Callable[[], Any]] = {}
    rows: dict[str, dict[str, Any]] = {}
    pass_s = 0.0
    with torch.inference_mode():
        for name, build in arms.items():
            rows[name] = {"arm": name}
            try:
                call = build()
                call()
                began = time.perf_counter()
                call()
                pass_s += time.perf_counter() - began
                calls[name] = call
            except Exception as error:  # the suite goes on, whatever one arm meets
                rows[name]["hole"] = reason(error)
            gc.collect()
    if not calls:
        return list(rows.values())
    repeats = int(min(most, max(least, budget_s // max(pass_s, 1e-3))))
    times = timing.interleave(calls, repeats, device, what)
    for name, call in calls.items():
        rows[name] |= timing.summary(times[name]) | {"repeats": repeats}
        rows[name]["peak_memory_mb"] = timing.peak_memory_mb(call, device)
        if COMPILED not in name:  # the counter does not see into compiled code
            rows[name]["gflops"] = timing.gflops(call)
    for row in rows.values():
        told = row.get("hole") or f"{row['latency_ms']:.1f} ms"
        print(f"{what}, {row['arm']}: {told}", flush=True)
    return list(rows.values())


def reason(error: Exception) -> str:
    """The first line of what went wrong, without places of this machine."""
    text = str(error).strip().split("\n")[0] or type(error).__name__
    return text if isinstance(error, Hole) else f"{type(error).__name__}: {text}"[:200]


def speedups(rows: list[dict[str, Any]], base: str) -> None:
    """Add to each measured row its ratio of medians to the row `base`, if that was measured."""
    dense = next((row for row in rows if row["arm"] == base and "latency_ms" in row), None)
    for row in rows:
        if dense is not None and "latency_ms" in row:
            row["speedup"] = dense["latency_ms"] / row["latency_ms"]


def made_from(script: str | Path) -> str:
    """A digest of what decides the figures: code of the methods, the script, libraries and machine."""
    digest = hashlib.sha256()
    package = ROOT / "src" / "sparsight"
    files = [Path(script), Path(__file__), Path(__file__).with_name("arms.py"), ROOT / "constraints.txt"]
    for name in SPEED_DECIDERS:
        place = package / name
        files += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    for file in files:
        digest.update(file.read_bytes())
    digest.update(timing.machine(torch.device("cpu")).encode())
    return digest.hexdigest()[:16]


def save(name: str, script: str, result: dict[str, Any]) -> None:
    """Write results/<name>.json with the digest of what made it."""
    write_json(RESULTS / f"{name}.json", {"made_from": made_from(script)} | result)
