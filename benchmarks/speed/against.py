"""This revision against another, turn by turn: is sparse attention as fast as it was?

`python -m benchmarks.speed.against --other DIR` writes results/against-cpu.json; DIR is a checkout
(`git worktree add DIR REVISION`).  Each revision runs in a process of its own, which waits while the
other has its turn; both have the same threads, environment and allocator.  What an arm is, each
revision's own benchmarks say: `module_arms` of attention.py, `settings` of arms.py.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
MODEL, SIZE_PX, DIM, HEADS = "timm:vit_small_patch14_dinov2", 1036, 384, 6
ARMS = {
    "module": ("module dense", "module sampled 1/16", "module reuse"),
    "model": ("dense", "sparse attention, sampled", "+ reuse"),
}
REPEATS = {"module": 15, "model": 7}


def calls_of(case: str, size_px: int) -> dict[str, Any]:
    """What is timed, built by the revision that is imported here."""
    import torch

    torch.manual_seed(0)
    if case == "module":
        from benchmarks.speed import attention
        from timm.models.vision_transformer import Block

        tokens = (size_px // 14) ** 2 + 1
        block = Block(DIM, HEADS, qkv_bias=True).eval()
        kept = attention.kept_count(tokens, attention.KEEP, attention.PREFIX)
        builds = attention.module_arms(block, torch.randn(1, tokens, DIM), kept)
        return {arm: builds[arm]() for arm in ARMS[case]}
    from benchmarks import arms

    from sparsight.models import load_model

    model = load_model(MODEL, (size_px, size_px)).model
    subject = arms.Subject(model, torch.randn(1, 3, size_px, size_px))
    changes = {"dense": None} | arms.settings(subject)
    return {arm: subject.call(subject.changed(changes[arm])) for arm in ARMS[case]}


def work(root: Path, case: str, size_px: int) -> None:
    """Answer each line, the name of an arm, with the milliseconds of one call of it."""
    import torch

    import sparsight
    from sparsight.stages import timing

    if root / "src" not in Path(sparsight.__file__).resolve().parents:
        raise SystemExit(f"imported {sparsight.__file__}, which is not of {root}")
    with torch.inference_mode(), timing._steady_allocator():
        calls = calls_of(case, size_px)
        for call in calls.values():
            call()
        facts = {"revision": timing.revision(), "threads": torch.get_num_threads()}
        print(json.dumps(facts), flush=True)
        for line in sys.stdin:
            call, began = calls[line.strip()], time.perf_counter()
            call()
            print(json.dumps((time.perf_counter() - began) * 1e3), flush=True)


class Worker:
    """The process of one revision."""

    def __init__(self, root: Path, case: str, size_px: int, stack: ExitStack) -> None:
        paths = os.pathsep.join(str(root / part) for part in ("src", ""))
        environment = os.environ | {"PYTHONPATH": paths, "GOMP_SPINCOUNT": "0"}
        command = (sys.executable, __file__, "--worker", str(root), case, str(size_px))
        # Not beside this file, whose folder python would put before the other revision's.
        command = (command[0], "-P", *command[1:])
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = stack.enter_context(subprocess.Popen(command, env=environment, **pipes))
        stack.callback(self.process.kill)
        self.facts = self.answer()

    def answer(self) -> Any:
        pipe: IO[str] = self.process.stdout  # type: ignore[assignment]
        if not (line := pipe.readline()):
            raise SystemExit(f"a worker ended with {self.process.wait()}: see above")
        return json.loads(line)

    def time(self, arm: str) -> float:
        pipe: IO[str] = self.process.stdin  # type: ignore[assignment]
        pipe.write(arm + "\n")
        pipe.flush()
        return float(self.answer())


def measured(roots: dict[str, Path], case: str, size_px: int, repeats: int) -> list[dict[str, Any]]:
    """A row for every arm of every revision; the order turns round by round."""
    from sparsight.stages import timing

    with ExitStack() as stack:
        workers = {name: Worker(root, case, size_px, stack) for name, root in roots.items()}
        turns = [(name, arm) for arm in ARMS[case] for name in workers]
        times: dict[tuple[str, str], list[float]] = {turn: [] for turn in turns}
        for round_ in range(repeats):
            place = round_ % len(turns)
            for name, arm in turns[place:] + turns[:place]:
                times[name, arm].append(workers[name].time(arm))
    rows = []
    for (name, arm), taken in times.items():
        summary, other = timing.summary(taken), timing.summary(times["other", arm])
        dense = timing.summary(times[name, ARMS[case][0]])
        rows.append(
            {"case": case, "of": name, "arm": arm, "repeats": repeats}
            | workers[name].facts
            | summary
            | {
                "speedup": dense["latency_ms"] / summary["latency_ms"],
                "against_other": other["latency_ms"] / summary["latency_ms"],
            }
        )
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Path(sys.argv[2]).resolve(), sys.argv[3], int(sys.argv[4]))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=Path, required=True, help="a checkout of another revision")
    parser.add_argument("--size", type=int, default=SIZE_PX)
    parser.add_argument("--repeats", type=int, help="[default: 15 for the module, 7 for the model]")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    import torch
    from benchmarks import harness

    from sparsight.files import write_json
    from sparsight.stages import timing

    roots = {"other": given.other.resolve(), "this": ROOT}
    rows = [
        row for case in ARMS for row in measured(roots, case, given.size, given.repeats or REPEATS[case])
    ]
    protocol = timing.protocol(
        torch.device("cpu"), torch.float32, batch=1, weights="random", model=MODEL,
        resolution=f"{given.size}x{given.size}",
        command="python -m benchmarks.speed.against --other DIR",
        turns="a process for each revision, one call at a time, in an order that turns",
    )  # fmt: skip
    out = given.out or harness.RESULTS / "against-cpu.json"
    write_json(out, {"protocol": protocol, "rows": rows})
