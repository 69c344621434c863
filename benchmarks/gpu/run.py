"""What only a GPU can tell, in the order of its worth, within a given time.

`python -m benchmarks.gpu.run --minutes 8 --out DIR` needs no network and builds nothing but what
torch.compile does.  Each part is written to DIR as soon as it is there, so whatever ends the run, the
parts before are kept; one that fails is a hole with its reason, and one for which there was no time says
so.  `--tiny` is the same on a CPU with small sizes: a trial of the script, whose figures mean nothing.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from benchmarks.gpu import checks, models, modules
from benchmarks.gpu.sizes import FULL, TINY, Sizes
from sparsight.files import write_json
from sparsight.stages import timing

Work = Callable[[float], list[dict[str, Any]]]  # seconds -> rows
SHARE_OF_REST = 1 / 3  # of the time that is left, one part may take so much at most


def parts(sizes: Sizes, device: torch.device) -> Iterator[tuple[str, Work]]:
    """Name and work of each part, the most telling first; each is told how many seconds it has."""
    yield "checks", lambda budget_s: checks.all_ops(sizes, device)
    for dtype in sizes.dtypes:
        kind = str(dtype).removeprefix("torch.")
        yield (
            f"modules-{kind}",
            lambda budget_s, dtype=dtype: modules.measured(sizes, device, dtype, budget_s),
        )
        for case in sizes.models:
            yield (
                f"{case.name}-{kind}",
                lambda budget_s, case=case, dtype=dtype: models.measured(
                    case, device, dtype, budget_s, sizes.compiler
                ),
            )
    yield "profile", lambda budget_s: modules.profiled(sizes, device)
    yield "preparing", lambda budget_s: models.prepared(sizes, device, budget_s)


def run(minutes: float, out: Path, sizes: Sizes, device: torch.device) -> dict[str, str]:
    """Do what fits; says of each part how it went."""
    ends, told = time.monotonic() + 60 * minutes, dict[str, str]()
    for name, work in parts(sizes, device):
        left = ends - time.monotonic()
        if left <= 0:
            told[name] = "not measured: the time was up"
        else:
            began = time.monotonic()
            try:
                rows: list[dict[str, Any]] = work(left * SHARE_OF_REST)
                told[name] = f"measured in {time.monotonic() - began:.0f} s"
            except Exception as error:  # the others go on
                rows, told[name] = [], f"hole: {harness.reason(error)}"
            write_json(out / f"{name}.json", {"protocol": protocol(minutes, device), "rows": rows})
        print(f"{name}: {told[name]}", flush=True)
        write_json(out / "parts.json", {"protocol": protocol(minutes, device), "parts": told})
    return told


def protocol(minutes: float, device: torch.device) -> dict[str, Any]:
    """What the figures hold for; the dtype is of the part."""
    known = timing.protocol(device, torch.float32, weights="random", minutes=minutes)
    known.pop("dtype")
    return known | {"command": f"python -m benchmarks.gpu.run --minutes {minutes:g}"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="small sizes, on a CPU too")
    given = parser.parse_args()
    if not given.tiny and not torch.cuda.is_available():
        parser.error("there is no CUDA GPU here: --tiny tries the script without one")
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run(given.minutes, given.out, TINY if given.tiny else FULL, place)
