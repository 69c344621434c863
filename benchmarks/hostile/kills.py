"""Kill the long verbs at any moment, fill their disk, and see whether the same command still ends alike.

`python benchmarks/hostile/kills.py --kills 200` runs every verb of verbs.py once, whole; then kills it
with SIGKILL at a share of its time drawn from the kill's number, starts it again (now and then to be
killed again), and compares what it leaves: plans, tensors and figures, all but times, bit by bit.  Then
it limits the size of files, and fails single writes, as a full disk does: one sentence, and the same
command goes on.  As another user it meets folders that may not be written.  A line for each is kept in
runs/kills/; the result is benchmarks/results/kills.json.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
import harness
import torch
from hostile import verbs
from hostile.judge import LONGEST, difference, files
from hostile.small import digest, sentence_of
from rows import code

import sparsight
from sparsight.errors import SparsightError
from sparsight.files import write_json
from sparsight.stages import timing

WAYS = ("kill", "full disk", "no space", "read-only")
OUTCOMES = ("same", "other result", "failed again", "no sentence", "half-written", "changed")
NOBODY = 65534


def place_of(base: Path) -> Path:
    """A new folder with all that the verbs need."""
    work = Path(tempfile.mkdtemp(prefix="kills-"))
    shutil.copytree(base, work, dirs_exist_ok=True, symlinks=True)
    return work


def killed(
    verb: str, number: int, base: Path, reference: dict[str, Any], took_s: float
) -> tuple[str, str]:
    """One kill or more, then the same command to its end."""
    rng = random.Random(f"{verb}:{number}")
    work = place_of(base)
    words, moments = verbs.VERBS[verb], []
    while True:
        share = rng.random()
        moments.append(round(share, 3))
        if verbs.ended(verbs.forked(work, words), kill_after_s=share * took_s) is not None:
            break  # it was faster
        if why := unreadable(work):
            return "half-written", f"after {moments}: {why}"
        if rng.random() < 0.7:
            break
    return finished(verb, work, reference, f"killed at {moments}")


def unreadable(work: Path) -> str:
    """Why a run that was cut off is neither loaded nor refused in a sentence."""
    for folder in ("out", "out/unfinished"):
        try:
            sparsight.load(work / folder)
        except SparsightError:
            pass
        except Exception as error:
            return f"{folder}: {type(error).__name__}: {error}"
    return ""


def finished(verb: str, work: Path, reference: dict[str, Any], what: str) -> tuple[str, str]:
    """The same command once more, left alone, and what it leaves beside the reference."""
    if verb == "finetune" and (work / "out" / "model.safetensors").exists():
        exit_code: int | None = 0  # it had ended, and says so instead of doing it again
    else:
        exit_code, _ = verbs.whole(work, verbs.VERBS[verb])
    words = (work / "words.txt").read_text(errors="replace")
    if exit_code != 0:
        return "failed again", f"{what}: exit code {exit_code}: {words[-300:]}"
    if other := difference(reference, verbs.left(work)):
        return "other result", f"{what}: {other}"
    shutil.rmtree(work)
    return "same", what


def filled(verb: str, number: int, base: Path, reference: dict[str, Any], way: str) -> tuple[str, str]:
    """A disk that is full, then one that is not."""
    rng = random.Random(f"{way}:{verb}:{number}")
    work = place_of(base)
    size = round(2 ** rng.uniform(0, 22))
    at = rng.choice((1, 2, 3, 4, 5, 6, 8, 10))
    before, what = (
        (verbs.no_larger(size), f"{size} bytes")
        if way == "full disk"
        else (verbs.full_at(at), f"write {at}")
    )
    exit_code = verbs.ended(verbs.forked(work, verbs.VERBS[verb], before))
    room = way != "full disk" or size > 4 * LONGEST  # else there is none for the words themselves
    if exit_code != 0 and room and (why := unsaid(work, exit_code)):
        return "no sentence", f"{what}: {why}"
    if partial := [p.name for p in (work / "out").rglob("*.tmp")]:
        return "half-written", f"{what}: {partial[0]} is left"
    return finished(verb, work, reference, what)


def locked(verb: str, base: Path) -> tuple[str, str]:
    """Every folder read-only, for a user who is not root."""
    work = place_of(base)
    for path in (work, *work.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (work / "words.txt").touch()
    (work / "words.txt").chmod(0o666)
    before = files(work)
    exit_code = verbs.ended(verbs.forked(work, verbs.VERBS[verb], lambda: os.setuid(NOBODY)))
    if why := unsaid(work, exit_code):
        return "no sentence", why
    changed = difference(before | {"words.txt": ""}, files(work) | {"words.txt": ""})
    shutil.rmtree(work)
    return ("changed", changed) if changed else ("same", "refused")


def unsaid(work: Path, exit_code: int | None) -> str:
    """Why a command that could not write has not said so in one sentence."""
    words = (work / "words.txt").read_text(errors="replace")
    if "Traceback" in words:
        return words[-400:]
    said = sentence_of(words, 1)
    good = (
        exit_code == 1
        and said
        and len(said) <= LONGEST
        and "\n" not in said
        and "no sentence" not in said
    )
    return "" if good else f"exit code {exit_code}: {words[-300:]}"


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
