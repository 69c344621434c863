"""One protocol for every benchmark: build the arms, warm up, interleave, and record what failed and why.

A case is a dictionary of arms, each a function that builds what is timed.  One that cannot be built or
run (a missing dtype or package, no memory, a kernel unfit for the size, a compile cache that cannot be
written) is a hole in the result, with its reason, and the others go on.  What a result was made from is
stored with it, so that `benchmarks/run.py` reruns only what changed.
"""

import ast
import gc
import hashlib
import json
import os
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from sparsight.files import write_json
from sparsight.stages import timing

ROOT = Path(__file__).parents[1]
RESULTS = Path(os.environ.get("SPARSIGHT_RESULTS", ROOT / "benchmarks" / "results"))  # for trials
SPEED_DECIDERS = (
    "families", "methods", "ops", "scores", "completions", "attach.py", "fit.py", "inplace.py",
    "stages/timing.py", "stages/measure.py",
)  # fmt: skip
NO_FIGURES = ("cli", "explore", "report")  # parts of the package that decide none
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
MACHINE = ("machine", "versions", "dtype", "threads")  # rows of others do not go into one table
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

    Repeats are as many as fit into `budget_s`, from `least` to `most`.  Passes that are not timed: the
    first, which may compile, counts FLOPs; the second tells memory and how many repeats fit; and one
    more of each arm warms up.
    """
    calls: dict[str, Callable[[], Any]] = {}
    rows: dict[str, dict[str, Any]] = {}
    pass_s = 0.0
    for name, build in arms.items():
        rows[name] = {"arm": name}
        try:
            with torch.inference_mode():
                call = build()
            if COMPILED in name:  # the counter does not see into compiled code
                rows[name] |= cold_start(call)
            else:
                rows[name]["gflops"] = timing.gflops(call)
            began = time.perf_counter()
            rows[name]["peak_memory_mb"] = timing.peak_memory_mb(call, device)
            pass_s += time.perf_counter() - began
            calls[name] = call
        except Exception as error:  # the suite goes on, whatever one arm meets
            rows[name] = {"arm": name, "hole": reason(error)}
        gc.collect()
    if not calls:
        return list(rows.values())
    repeats = int(min(most, max(least, budget_s // max(pass_s, 1e-3))))
    try:
        times = timing.interleave(calls, repeats, device, what)
    except Exception as error:  # memory may run out only now
        return [{"arm": name, "hole": reason(error)} for name in rows]
    for name in calls:
        rows[name] |= timing.summary(times[name]) | {"repeats": repeats}
    for row in rows.values():
        told = row.get("hole") or f"{row['latency_ms']:.1f} ms"
        print(f"{what}, {row['arm']}: {told}", flush=True)
    return list(rows.values())


def cold_start(call: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of a first call, which compiles, and how many graphs came of it."""
    counters = torch._dynamo.utils.counters["stats"]
    before, began = counters["unique_graphs"], time.perf_counter()
    with torch.inference_mode():
        call()
    taken = time.perf_counter() - began
    return {"cold_start_s": taken, "graphs": counters["unique_graphs"] - before}


def kind(device: torch.device) -> str:
    """What tells machines apart whose figures stand side by side: `cpu-avx512`, ..., or `cuda`."""
    if device.type != "cpu":
        return device.type
    return f"cpu-{torch.backends.cpu.get_cpu_capability().lower().replace(' ', '-')}"


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
        digest.update(code_of(file).encode())
    digest.update(timing.machine(torch.device("cpu")).encode())
    return digest.hexdigest()[:16]


def package() -> str:
    """A digest of all that decides quality: the whole package with its weights, libraries, machine."""
    digest = hashlib.sha256(made_from(__file__).encode())
    root = ROOT / "src" / "sparsight"
    for file in sorted(root.rglob("*")):
        parts = file.relative_to(root).parts
        if file.is_file() and "__pycache__" not in parts and parts[0] not in NO_FIGURES:
            digest.update(code_of(file).encode() if file.suffix == ".py" else file.read_bytes())
    return digest.hexdigest()[:16]


def code_of(file: Path) -> str:
    """What a file says to a machine: of Python, without comments and docstrings."""
    if file.suffix != ".py":
        return file.read_text()
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree)


def run(
    name: str,
    script: str,
    cases: Mapping[str, Callable[[], list[dict[str, Any]]]],
    protocol: dict[str, Any],
    only: str = "",
) -> None:
    """Measure the cases that are not of this code yet, and save after each: what was cut off goes on.

    Rows say which case and revision they are of.  Cases without `only` in their name stay as they are,
    if they were made on this machine.  The result as a whole counts as current (`made_from`) once
    every case is.
    """
    file, now = RESULTS / f"{name}.json", made_from(script)
    old = json.loads(file.read_text()) if file.exists() else {"protocol": protocol, "rows": []}
    here = all(old["protocol"][key] == protocol[key] for key in MACHINE)
    found = {case: [row for row in old["rows"] if here and row["case"] == case] for case in cases}

    def current(case: str) -> bool:
        return bool(found[case]) and all(row["made_from"] == now for row in found[case])

    for case, measured in cases.items():
        if only in case and not current(case):
            mark = {"case": case, "revision": timing.revision(), "made_from": now}
            found[case] = [mark | row for row in measured()]
            rows = [row for own in found.values() for row in own]
            whole = {"made_from": now if all(map(current, cases)) else None}
            write_json(file, whole | {"protocol": protocol, "rows": rows})


def attention_s(gflops: float, device: torch.device) -> float:
    """Seconds that so much work takes at the rate of one attention call."""
    heads, tokens, dim = 4, 4096, 64
    q = torch.randn(1, heads, tokens, dim, device=device)
    times = timing.interleave({"": lambda: scaled_dot_product_attention(q, q, q)}, 1, device)[""]
    return gflops * times[0] / 1e3 / (4 * heads * tokens**2 * dim / 1e9)


def save(name: str, script: str, result: dict[str, Any]) -> None:
    """Write results/<name>.json with the digest of what made it."""
    write_json(RESULTS / f"{name}.json", {"made_from": made_from(script)} | result)
