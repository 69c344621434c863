"""Run every benchmark whose result is not of this code, these libraries and this machine.

`python benchmarks/run.py` (or `make bench`).  To run one again all the same, remove its result.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import harness

from sparsight.files import write_json

HERE = Path(__file__).parent
SUITE = {  # script -> its result, which says itself what it was made from: the code that decides speed
    "attention.py": "attention-cpu",
    "tiles.py": "tiles-cpu",
    "ladder.py": "ladder-cpu",
    "shares.py": "shares-cpu",
    "scaling.py": "scaling-cpu",
    "preparing.py": "preparing-cpu",
    "memory.py": "memory-cpu",
    "sam2.py": "sam2-cpu",
    "sam2_windows.py": "sam2-windows-cpu",
    "crossover.py": "crossover-cpu",
}
QUALITY = {  # result -> commands that make it, with all of the package
    "completion-cpu": ("python benchmarks/encoder/completion.py",),
    "fuller-cpu": ("python benchmarks/encoder/fuller.py",),
    "swin-cpu": ("python benchmarks/swin/run.py",),
    "spot-cpu": ("python benchmarks/spot.py",),
    "demo-cpu": (
        "sparsight demo --out runs/demo --repeats 9 --scenes 32 --json benchmarks/results/demo-cpu.json",
        "cp runs/demo/analysis.json benchmarks/results/analysis-demo.json",
    ),
    "search-demo": (
        "sparsight optimize demo --max-loss 1 --max-images 32 --out runs/search",
        "cp runs/search/front.json benchmarks/results/search-demo.json",
    ),
    "patterns-cpu": ("python benchmarks/patterns.py",),
    "compare-demo": ("sparsight compare demo --json benchmarks/results/compare-demo.json",),
}


def is_current(digest: str, result: Path) -> bool:
    """Whether a result was made from what is here now."""
    return result.exists() and json.loads(result.read_text()).get("made_from") == digest


def of_package(commands: tuple[str, ...]) -> str:
    """A digest of the whole package with its weights, the commands, and the scripts they name."""
    digest = hashlib.sha256(harness.package().encode())
    for command in commands:
        digest.update(command.encode())
        for word in command.split():
            if (file := harness.ROOT / word).suffix == ".py":
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


if __name__ == "__main__":
    failed = []
    for script, name in SUITE.items():
        if is_current(harness.made_from(HERE / script), harness.RESULTS / f"{name}.json"):
            print(f"{name}: up to date")
        elif subprocess.run([sys.executable, str(HERE / script)], check=False).returncode:
            failed.append(name)  # what it measured until then is saved; the others still run
    for name, commands in QUALITY.items():
        result = harness.RESULTS / f"{name}.json"
        if is_current(of_package(commands), result):
            print(f"{name}: up to date")
        elif not made(commands, result):
            failed.append(name)
    if failed:
        sys.exit(f"did not finish: {', '.join(failed)}")
