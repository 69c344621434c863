"""Ten thousand hostile inputs: a right answer or one sentence, and nothing else.

`python -m benchmarks.hostile.run` makes them, each from its kind and number alone, hands them over in
this process and counts what becomes of them (judge.py) in benchmarks/results/hostile.json.  A line for
each is kept in runs/hostile/, so the same command goes on after an interrupt; `--only KIND` and
`--number N` try one.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from benchmarks import harness
from benchmarks.hostile.judge import FAULTS, OUTCOMES, judge
from benchmarks.hostile.small import digest, rng_of
from benchmarks.rows import code

from sparsight.files import write_json
from sparsight.stages import timing

COUNTS = {  # inputs of each kind; a kind is a file here
    "picture_files": 2400,
    "picture_objects": 1400,
    "label_folders": 1000,
    "checkpoints": 1000,
    "model_folders": 900,
    "run_folders": 1500,
    "interrupted_runs": 300,
    "commands": 1200,
    "arguments": 1800,
}
SHOWN = 40  # faults that the result names


def schedule(share: float, only: str = "") -> list[tuple[str, int]]:
    """Kind and number of every input, the kinds mixed evenly; a smaller share has the first of each."""
    wanted = {kind: round(count * share) for kind, count in COUNTS.items() if only in kind}
    places = [((n + 0.5) / count, kind, n) for kind, count in wanted.items() for n in range(count)]
    return [(kind, number) for _, kind, number in sorted(places)]


def tried(kind: str, number: int) -> dict[str, Any]:
    """What becomes of one input."""
    place, home = Path(tempfile.mkdtemp(prefix="hostile-")), Path.cwd()
    os.chdir(place)  # where relative places lead
    try:
        case = import_module(f"benchmarks.hostile.{kind}").make(rng_of(kind, number), place)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # others' words about odd values
            return {"kind": kind, "number": number} | judge(case)
    finally:
        os.chdir(home)
        for folder in (place, *(p for p in place.rglob("*") if p.is_dir() and not p.is_symlink())):
            folder.chmod(0o700)
        shutil.rmtree(place, ignore_errors=True)


class Log:
    """A line for each input that was tried, and which one was begun last."""

    def __init__(self, folder: Path, mark: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.begun = folder / f"{mark}.jsonl", folder / f"{mark}.begun"
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.rows = [json.loads(line) for line in lines]
        if self.begun.exists():  # the process ended with it
            what = json.loads(self.begun.read_text())
            self.add(what | {"what": "", "outcome": "crash", "detail": "the process ended", "ms": 0.0})

    def begin(self, kind: str, number: int) -> None:
        self.begun.write_text(json.dumps({"kind": kind, "number": number}))

    def add(self, row: dict[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)
        self.begun.unlink(missing_ok=True)


def counted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By kind: inputs, each outcome, and the time the slowest took."""
    found = []
    for kind in COUNTS:
        own = [row for row in rows if row["kind"] == kind]
        by = Counter(row["outcome"] for row in own)
        slowest = max((row["ms"] for row in own), default=0.0)
        found.append({"kind": kind, "inputs": len(own), "slowest_ms": slowest})
        found[-1] |= {outcome: by[outcome] for outcome in OUTCOMES}
    return found


def result(rows: list[dict[str, Any]], command: str) -> dict[str, Any]:
    """What the result's file says."""
    protocol = timing.setting(torch.device("cpu"), torch.float32)
    faults = [row for row in rows if row["outcome"] in FAULTS]
    return {
        "made_from": code(),
        "protocol": protocol | {"command": command, "seeds": "kind:number", "inputs": len(rows)},
        "rows": counted(rows),
        "faults": [
            {k: row[k] for k in ("kind", "number", "outcome", "detail")} for row in faults[:SHOWN]
        ],
    }


def sources() -> str:
    """What the inputs are made by."""
    return str([harness.code_of(file) for file in sorted(Path(__file__).parent.glob("*.py"))])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs of each kind")
    parser.add_argument("--only", default="", help="kinds with this in their name; no result is written")
    parser.add_argument("--number", type=int, help="this input alone")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop then; the command goes on")
    parser.add_argument("--work", type=Path, default=harness.ROOT / "runs" / "hostile")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "hostile.json")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command goes on"))
    os.environ.update(HF_HUB_OFFLINE="1", COLUMNS="400")
    torch.set_num_threads(1)
    harness.limit_memory()
    if given.number is not None:
        (kind,) = (kind for kind in COUNTS if given.only in kind)
        print(json.dumps(tried(kind, given.number), indent=2))
        sys.exit()
    log = Log(given.work, f"{digest(code(), sources()):08x}")
    done, began = {(row["kind"], row["number"]) for row in log.rows}, time.monotonic()
    todo = [one for one in schedule(given.share, given.only) if one not in done]
    try:
        for kind, number in todo:
            if time.monotonic() - began > given.seconds:
                sys.exit("time is over; the same command goes on")
            log.begin(kind, number)
            log.add(tried(kind, number))
            if log.rows[-1]["outcome"] in FAULTS:
                print(json.dumps(log.rows[-1]), flush=True)
    finally:
        log.begun.unlink(missing_ok=True)
        for row in counted(log.rows):
            print(" ".join(f"{key}={value}" for key, value in row.items() if value), flush=True)
    if not given.only:
        write_json(given.out, result(log.rows, " ".join(["python", *sys.argv])))
