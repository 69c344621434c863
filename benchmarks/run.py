"""Run every benchmark whose result is not of this code, these libraries and this machine.

`python benchmarks/run.py` (or `make bench`).  To run one again all the same, remove its result.
"""

import json
import subprocess
import sys
from pathlib import Path

import harness

HERE = Path(__file__).parent
SUITE = {  # script -> its result
    "attention.py": "attention-cpu",
    "tiles.py": "tiles-cpu",
    "ladder.py": "ladder-cpu",
    "scaling.py": "scaling-cpu",
    "preparing.py": "preparing-cpu",
    "memory.py": "memory-cpu",
    "sam2.py": "sam2-cpu",
    "crossover.py": "crossover-cpu",
}


def is_current(script: Path, result: Path) -> bool:
    """Whether a result was made from what is here now."""
    if not result.exists():
        return False
    return json.loads(result.read_text()).get("made_from") == harness.made_from(script)


if __name__ == "__main__":
    failed = []
    for script, name in SUITE.items():
        if is_current(HERE / script, harness.RESULTS / f"{name}.json"):
            print(f"{script}: up to date")
        elif subprocess.run([sys.executable, str(HERE / script)], check=False).returncode:
            failed.append(script)  # what it measured until then is saved; the others still run
    if failed:
        sys.exit(f"did not finish: {', '.join(failed)}")
