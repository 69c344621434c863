"""Change the code in one place after another and see whether the tests tell: a mutation check.

`python -m benchmarks.mutants.run --sample 300` draws mutants (drawn.py) of what decides results:
functions of tensors, scores, completions, and how a plan is put on a model.  Each is tried in a copy of
the tree and in a process of its own, with the tests that run the changed line (known.py, trial.py),
until one fails or the seconds of the processor that a mutant may take are used up.  Verdicts are kept in
runs/mutants/ as they are there: the same command goes on after an interrupt, and tries anew what
survived if the tests have changed.  The result is benchmarks/results/mutants.json.  Needs
'sparsight[mutants]'.
"""

import argparse
import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.mutants.drawn import Mutant, drawn
from benchmarks.mutants.known import Known, verdict
from benchmarks.mutants.trial import copied, tried, watched

ROOT = Path(__file__).parents[2]
WORK = ROOT / "runs" / "mutants"
PACKAGE = Path("src/sparsight")
MUTATED = ("ops", "scores", "completions", "attach.py", "inplace.py", "weights.py")
TESTS = (
    "ops", "scores", "completion", "inplace", "apply", "merging", "patterns", "spot", "sparsevit",
    "sites", "grids", "defaults", "batches", "changed_modules", "opaque",
)  # fmt: skip


def sources() -> list[str]:
    """The files that are changed."""
    files: list[Path] = []
    for place in (ROOT / PACKAGE / name for name in MUTATED):
        files += [place] if place.suffix else sorted(place.glob("*.py"))
    return [str(file.relative_to(ROOT)) for file in files]


def digest(*files: str) -> str:
    """Of what they say."""
    return hashlib.sha256(b"\0".join((ROOT / file).read_bytes() for file in files)).hexdigest()[:16]


def tests(tree: Path, files: list[str]) -> Known:
    """What each test runs of `files`, found anew for the files of tests that changed."""
    found = Known(digest(*files), {}, {})
    for name in TESTS:
        test, kept = f"tests/test_{name}.py", WORK / f"{name}.json"
        of = digest(test, "tests/conftest.py", *files)
        if not kept.exists() or json.loads(kept.read_text())["of"] != of:
            print(f"what {test} runs", flush=True)
            kept.write_text(json.dumps({"of": of} | watched(tree, test, files)))
        found.add(json.loads(kept.read_text()))
    return found


def judged(mutant: Mutant, tree: Path, known: Known, budget: float) -> dict[str, Any]:
    """The row of one mutant."""
    code = (ROOT / mutant.file).read_text(encoding="utf-8")
    chosen = known.of(mutant.file, code, mutant.line, budget)
    ended, ran = tried(tree, mutant, chosen, known.seconds) if chosen else (0, [])
    row: dict[str, Any] = {"file": str(Path(mutant.file).relative_to(PACKAGE)), "line": mutant.line}
    row |= {"operator": mutant.operator, "diff": mutant.diff, "verdict": verdict(ended)}
    row |= {"tests": len(ran), "test_files": sorted({Path(test.split("::")[0]).name for test in ran})}
    return row | ({"by": ran[-1] if ran else "import"} if row["verdict"] == "killed" else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=300, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=8, help="of tests, for each mutant")
    given = parser.parse_args()
    files = sources()
    mutants, counts = drawn(ROOT, files, given.sample, given.seed)
    WORK.mkdir(parents=True, exist_ok=True)
    tree, ledger = copied(ROOT, WORK / "tree"), WORK / "verdicts.jsonl"
    known = tests(tree, files)
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    rows = {line["key"]: line for line in map(json.loads, lines)}  # the last of each key
    now = f"{known.of_tests} {given.seconds}"
    for n, mutant in enumerate(mutants, 1):
        before = rows.get(mutant.key)
        if before and (before["verdict"] != "survived" or before["with"] == now):
            continue
        row = {"key": mutant.key, "with": now} | judged(mutant, tree, known, given.seconds)
        row["first"] = before["first"] if before else row["verdict"]
        rows[mutant.key] = row
        with ledger.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        where = f"{n} of {given.sample} {row['verdict']}: {row['file']}:{row['line']}"
        print(where, *row["diff"], flush=True)
    command = (
        f"python -m benchmarks.mutants.run --sample {given.sample} --seed {given.seed} "
        f"--seconds {given.seconds:g}"
    )
    save([rows[mutant.key] for mutant in mutants], counts, command)


def save(rows: list[dict[str, Any]], counts: dict[str, int], command: str) -> None:
    """The result's file."""
    # Not before: a process of a trial has what is imported here, and imports the package from the copy.
    import torch
    from benchmarks.harness import RESULTS, write_json

    from sparsight.stages import timing

    protocol = timing.setting(torch.device("cpu"), torch.float32) | {"command": command} | counts
    protocol["mutmut"] = version("mutmut")
    kept = [{name: row[name] for name in row if name not in ("key", "with")} for row in rows]
    kept.sort(key=lambda row: (row["file"], row["line"]))
    write_json(RESULTS / "mutants.json", {"protocol": protocol, "rows": kept})


if __name__ == "__main__":
    main()
