"""Run the benchmarks whose results are not of this code, these libraries and this machine.

`python -m benchmarks.run` (or `make bench`) runs the short ladder, minutes; with `--all` (or `make
bench-all`) everything that needs no data of others, hours.  To run one again all the same, remove its
result.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import harness
from sparsight.files import write_json

# Cases of the ladder that a change is looked at with: the embedded encoder, and what is quoted most.
SHORT = (
    "demo 1024 px",
    "timm:vit_small_patch14_dinov2 518 px, batch 1",
    "timm:vit_small_patch14_dinov2 1036 px, batch 1",
)
# A module of benchmarks.speed and its result, which says what it was made from: code that decides speed.
SUITE = {
    "attention": "attention-cpu",
    "tiles": "tiles-cpu",
    "ladder": f"ladder-{harness.kind(torch.device('cpu'))}",
    "shares": "shares-cpu",
    "scaling": "scaling-cpu",
    "preparing": "preparing-cpu",
    "memory": "memory-cpu",
    "sam2": "sam2-cpu",
    "sam2_windows": "sam2-windows-cpu",
    "crossover": "crossover-cpu",
}
QUALITY = {  # result -> commands that make it, with all of the package
    "completion-cpu": ("python -m benchmarks.quality.completion",),
    "fuller-cpu": ("python -m benchmarks.quality.fuller",),
    "swin-cpu": ("python -m benchmarks.swin.run",),
    "spot-cpu": ("python -m benchmarks.quality.spot",),
    "demo-cpu": (
        "sparsight demo --out runs/demo --repeats 9 --scenes 32 --json benchmarks/results/demo-cpu.json",
        "cp runs/demo/analysis.json benchmarks/results/analysis-demo.json",
    ),
    "search-demo": (
        "sparsight optimize demo --max-loss 1 --max-images 32 --out runs/search",
        "cp runs/search/front.json benchmarks/results/search-demo.json",
    ),
    "search-fast": (
        "sparsight optimize demo --speedup 5.5 --trials 120 --max-images 32 --out runs/fast",
        "cp runs/fast/front.json benchmarks/results/search-fast.json",
    ),
    "patterns-cpu": ("python -m benchmarks.quality.patterns",),
    "compare-demo": ("sparsight compare demo --json benchmarks/results/compare-demo.json",),
}


def is_current(digest: str, result: Path) -> bool:
    """Whether a result was made from what is here now."""
    return result.exists() and json.loads(result.read_text()).get("made_from") == digest


def file_of(module: str) -> Path:
    """Where a module of the benchmarks stands."""
    return harness.ROOT / f"{module.replace('.', '/')}.py"


def of_package(commands: tuple[str, ...]) -> str:
    """A digest of the whole package with its weights, the commands, and the scripts they name."""
    digest = hashlib.sha256(harness.package().encode())
    for command in commands:
        digest.update(command.encode())
        for word in command.split():
            if (file := file_of(word)).is_file():
                digest.update(harness.code_of(file).encode())
    return digest.hexdigest()[:16]


def made(commands: tuple[str, ...], result: Path) -> bool:
    """Run commands one after another, and note in their result what it was made from."""
    digest = of_package(commands)  # of what is run, though somebody may go on writing
    here = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        if subprocess.run(command.split(), cwd=harness.ROOT, env=here, check=False).returncode:
            return False
    write_json(result, json.loads(result.read_text()) | {"made_from": digest})
    return True


def run_all() -> list[str]:
    """Everything whose result is not current; the names of what did not finish."""
    failed = []
    for script, name in SUITE.items():
        module = f"benchmarks.speed.{script}"
        if is_current(harness.made_from(file_of(module)), harness.RESULTS / f"{name}.json"):
            print(f"{name}: up to date")
        elif not ran(module):
            failed.append(name)  # what it measured until then is saved; the others still run
    for name, commands in QUALITY.items():
        result = harness.RESULTS / f"{name}.json"
        if is_current(of_package(commands), result):
            print(f"{name}: up to date")
        elif not made(commands, result):
            failed.append(name)
    return failed


def ran(module: str, *options: str) -> bool:
    """Whether a command of the benchmarks came to its end."""
    command = [sys.executable, "-m", module, *options]
    return subprocess.run(command, cwd=harness.ROOT, check=False).returncode == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="also what takes hours")
    if parser.parse_args().all:
        failed = run_all()
    else:  # cases that are current are not measured again
        failed = [case for case in SHORT if not ran("benchmarks.speed.ladder", "--only", case)]
    if failed:
        sys.exit(f"did not finish: {', '.join(failed)}")
