"""Kill the long verbs at any moment, fill their disk, and see whether the same command still ends alike.

`python -m benchmarks.hostile.kills --kills 200` runs every verb of verbs.py once, whole; then kills it
with SIGKILL at a share of its time drawn from the kill's number, starts it again (now and then to be
killed again), and compares what it leaves: plans, tensors and figures, all but times, bit by bit.  Then
it limits the size of files, and fails single writes, as a full disk does: one sentence, and the same
command goes on.  As another user it meets folders that may not be written.  A line for each is kept in
runs/kills/; the result is benchmarks/results/kills.json.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from benchmarks import harness
from benchmarks.hostile import verbs
from benchmarks.hostile.endings import filled, killed, locked, place_of
from benchmarks.hostile.small import digest
from benchmarks.rows import code

from sparsight.files import write_json
from sparsight.stages import timing

WAYS = ("kill", "full disk", "no space", "read-only")
OUTCOMES = ("same", "other result", "failed again", "no sentence", "half-written", "changed")


def todo(kills: int) -> list[tuple[str, str, int]]:
    """Way, verb and number of every trial; a quarter as many full disks as kills."""
    names = list(verbs.VERBS)
    found = [("kill", names[n % len(names)], n // len(names)) for n in range(kills)]
    for way in ("full disk", "no space"):
        found += [(way, names[n % len(names)], n // len(names)) for n in range(kills // 8)]
    return found + [("read-only", name, 0) for name in names] * (os.getuid() == 0)


def result(rows: list[dict[str, Any]], command: str) -> dict[str, Any]:
    """What the result's file says: by way and verb, how many ended how."""
    counts = Counter((row["way"], row["verb"], row["outcome"]) for row in rows)
    found = [
        {"way": way, "verb": verb} | {outcome: counts[way, verb, outcome] for outcome in OUTCOMES}
        for way in WAYS
        for verb in verbs.VERBS
        if any(counts[way, verb, outcome] for outcome in OUTCOMES)
    ]
    protocol = timing.setting(torch.device("cpu"), torch.float32) | {
        "command": command,
        "trials": len(rows),
    }
    faults = [row for row in rows if row["outcome"] != "same"]
    return {"made_from": code(), "protocol": protocol, "rows": found, "faults": faults[:40]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument(
        "--only", default="", help="ways or verbs with this in their name; no result is written"
    )
    parser.add_argument("--work", type=Path, default=harness.ROOT / "runs" / "kills")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "kills.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.update(HF_HUB_OFFLINE="1", COLUMNS="400")
    base = Path(tempfile.mkdtemp(prefix="kills-base-"))
    verbs.furnish(base)
    verbs.warm()
    first = place_of(base)
    verbs.whole(first, verbs.VERBS["search"])  # for its table of latencies
    table = first / verbs.TABLE
    if table.exists():
        shutil.copy(table, base / verbs.TABLE)
    made_by = [harness.code_of(Path(file)) for file in (__file__, verbs.__file__)]
    log = given.work / f"{digest(code(), made_by):08x}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {(row["way"], row["verb"], row["number"]) for row in rows}
    references: dict[str, tuple[dict[str, Any], float]] = {}
    for way, verb, number in todo(given.kills):
        if (way, verb, number) in known or given.only not in f"{way} {verb}":
            continue
        if verb not in references:
            work = place_of(base)
            exit_code, took_s = verbs.whole(work, verbs.VERBS[verb])
            if exit_code != 0:
                sys.exit(f"{verb} fails when left alone: {(work / 'words.txt').read_text()[-600:]}")
            references[verb] = verbs.left(work), took_s
        reference, took_s = references[verb]
        if way == "kill":
            outcome, detail = killed(verb, number, base, reference, took_s)
        elif way == "read-only":
            outcome, detail = locked(verb, base)
        else:
            outcome, detail = filled(verb, number, base, reference, way)
        rows.append({"way": way, "verb": verb, "number": number, "outcome": outcome, "detail": detail})
        with log.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        if outcome != "same":
            print(json.dumps(rows[-1]), flush=True)
    print(Counter((row["way"], row["outcome"]) for row in rows))
    if not given.only:
        write_json(given.out, result(rows, " ".join(["python", *sys.argv])))
