"""The long verbs on a tiny model, each in a process forked from this warm one, and what they must leave.

A child is forked while this process has one thread, so the second of import time is paid once.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.hostile.small import model, save_folder
from PIL import Image
from safetensors.torch import load_file

import sparsight
from sparsight.cli import app

CALIBRATION = ("--images", "pictures", "--resolution", "64x96", "--max-images", "4")
TABLE = "latency.json"  # of the search, so that its trials do not hang on this machine's moods
VERBS: dict[str, tuple[str, ...]] = {
    "completion": (
        "optimize", "model", *CALIBRATION, "--out", "out", "--method", "sve", "--layers", "0-1",
        "--method", "early-exit",
        "--set", "early-exit.after=[1]",
    ),
    "distillation": (
        "optimize", "model", *CALIBRATION, "--out", "out", "--layers", "0-1", "--distill", "--steps",
        "12",
    ),
    "relevance": (
        "optimize", "model", *CALIBRATION, "--out", "out", "--method", "spot", "--steps", "8",
        "--published",
    ),
    "search": (
        "optimize", "model", *CALIBRATION, "--out", "out", "--speedup", "0.001", "--trials", "8",
        "--latency-table", TABLE,
    ),
    "finetune": ("finetune", "model", "--data", "data", "--out", "out", "--resolution", "64",
        "--steps", "8", "--rank", "2"),
    "compare": (
        "compare", "model", *CALIBRATION, "--json", "out/compare.json", "--method", "sve",
        "--method", "early-exit",
        "--repeats", "1",
    ),
    "evaluate": ("evaluate", "run", "--task", "salient", "--data", "data", "--resolution", "64",
        "--json", "out/e.json"),
}  # fmt: skip
TIMED = ("latency", "speedup", "min_tokens", "seconds", "images_per_s", "peak_memory", "shares",
    "predicted_ms", "reasons",
         "crossover", "machine", "command", "versions", "revision", "point")  # fmt: skip


def furnish(place: Path) -> None:
    """The model, pictures, masks and run that the verbs name."""
    place.mkdir(parents=True, exist_ok=True)
    save_folder(place / "model", model())
    made = np.random.default_rng(0)
    for folder in ("pictures", "data/im", "data/gt"):
        (place / folder).mkdir(parents=True, exist_ok=True)
        for number in range(6):
            pixels = made.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            if folder.endswith("gt"):
                pixels = np.repeat(np.repeat((made.random((4, 6)) > 0.5) * np.uint8(255), 16, 0), 16, 1)
            Image.fromarray(pixels).save(place / folder / f"{number}.png")
    plan = sparsight.Plan(
        methods=(sparsight.SVE(layers=(0,), min_tokens=0),), source="model", resolution=(64, 64)
    )
    sparsight.save(plan, place / "run")


def warm() -> None:
    """Import what the verbs need, so that no child has to."""
    for name in sparsight.__all__:
        getattr(sparsight, name)
    for library in ("accelerate", "jinja2", "matplotlib.figure", "optuna", "peft", "plotly.offline"):
        import_module(library)


def forked(work: Path, words: tuple[str, ...], before: Callable[[], Any] = lambda: None) -> int:
    """A command in a child of this process, its words in work/words.txt; the child's number."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    code = 70
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(work)
        log = os.open("words.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["sparsight", *words]
        before()
        app(list(words))
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(child: int, limit_s: float = 300.0, kill_after_s: float | None = None) -> int | None:
    """The exit code of a child; None if it was killed, after `kill_after_s` or the limit."""
    began = time.monotonic()
    until = limit_s if kill_after_s is None else kill_after_s
    while time.monotonic() - began < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def whole(work: Path, words: tuple[str, ...]) -> tuple[int | None, float]:
    """A command left alone: its exit code, and the seconds it took."""
    began = time.monotonic()
    return ended(forked(work, words)), time.monotonic() - began


def no_larger(size: int) -> Callable[[], None]:
    """Before a command: no file may grow beyond `size` bytes, as on a disk that is full."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def full_at(write: int) -> Callable[[], None]:
    """Before a command: the disk is full at the `write`-th file that is put in its place."""

    def limit() -> None:
        replace, seen = os.replace, [0]

        def failing(source: Any, target: Any) -> None:
            seen[0] += 1
            if seen[0] >= write:
                os.truncate(source, os.path.getsize(source) // 2)
                raise OSError(28, "No space left on device")
            replace(source, target)

        os.replace = failing  # type: ignore[assignment]

    return limit


def left(work: Path) -> dict[str, Any]:
    """What a verb left: the names of its files, their figures but for times, and every tensor."""
    found: dict[str, Any] = {}
    for path in sorted(
        p for folder in ("out", "run") for p in (work / folder).rglob("*") if p.is_file()
    ):
        name = str(path.relative_to(work))
        if path.name.startswith("weights-"):
            name = str(path.parent.relative_to(work) / "weights")
        if path.suffix == ".safetensors":
            for key, value in load_file(path).items():
                found[f"{name}:{key}"] = (
                    str(value.dtype),
                    tuple(value.shape),
                    hash(value.numpy().tobytes()),
                )
        elif path.suffix == ".json" and path.name != TABLE:
            found[name] = untimed(json.loads(path.read_text()))
        else:
            found[name] = "there"
    return found


def untimed(data: Any) -> Any:
    """JSON without what another run takes another time for."""
    if isinstance(data, dict):
        return {k: untimed(v) for k, v in data.items() if not any(word in k for word in TIMED)}
    return [untimed(value) for value in data] if isinstance(data, list) else data
