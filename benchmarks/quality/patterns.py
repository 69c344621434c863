"""Patterns without a score, merging and bypass beside sparse attention and early exit, untrained.

`python -m benchmarks.quality.patterns` writes results/patterns-cpu.json: every row of `compare` for
these methods on the embedded encoder, and combinations, timed in one run and judged on held-out scenes;
the FLOP limit of each beside its speed.
"""

from typing import Any

from benchmarks import rows as shared

import sparsight
from sparsight.demo import encoder
from sparsight.demo.compare import by_miou
from sparsight.demo.evaluate import ScenePictures
from sparsight.demo.run import CALIBRATION_SEED, EVALUATION_SEED, FIRST, NINE
from sparsight.demo.scenes import SceneSet
from sparsight.images import Held
from sparsight.methods import Settings
from sparsight.stages.bench import bench_of
from sparsight.stages.compare import compare

PICTURES = 6  # of calibration, as many as compare takes
METHODS = (
    "lower-resolution", "tome", "sve", "early-exit", "local-attention", "density-peaks",
    "mutual-pairs", "bypass",
)  # fmt: skip
LATER = tuple(range(3, 12))


def merging(keep: float) -> sparsight.DensityPeaks:
    """Once, after layer 2, completed."""
    return sparsight.DensityPeaks(after=2, keep=keep, completion="map")


def local(size: int, pattern: str = "windows", layers: tuple[int, ...] = LATER) -> Any:
    """Windows or stripes, completed."""
    return sparsight.LocalAttention(layers=layers, pattern=pattern, size=size, completion="map")


ROWS: dict[str, tuple[Settings, ...]] = {
    **{f"sve, merged {keep}": (FIRST, merging(keep)) for keep in (0.5, 0.4, 0.3, 0.2)},
    **{
        f"sve, exit {keep}": (FIRST, sparsight.EarlyExit(after=(2,), keep=keep))
        for keep in (0.5, 0.4, 0.3, 0.2)
    },
    **{f"windows {size}": (local(size),) for size in (8, 32)},
    "windows, merged 0.3": (local(16, layers=(0, 1, 2)), merging(0.3)),
    "lattice keys": (NINE.completed().model_copy(update={"score": "lattice"}),),
}


if __name__ == "__main__":
    parser = shared.parser(__doc__, "patterns-cpu", 12, repeats=5)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--only", default="", help="combinations with this in their name")
    given = parser.parse_args()
    model, size = encoder.load(), (given.size, given.size)
    pictures = Held(ScenePictures(SceneSet(PICTURES, size, CALIBRATION_SEED)))
    bench = bench_of(model, pictures, PICTURES)
    plans = [
        shared.completed(bench, methods, given.work / row)[0]
        for row, methods in ROWS.items()
        if given.only in row
    ]
    judge = by_miou(size, given.scenes, print)
    result = compare(model, pictures, plans, METHODS, given.repeats, judge=judge)
    dense = result["rows"][0]["gflops"]
    for row in result["rows"]:
        row["flop_limit"] = dense / row["gflops"]
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    protocol = result["protocol"] | {
        "scenes": given.scenes, "first_seed": EVALUATION_SEED, "images": given.scenes,
        "calibration_pictures": PICTURES,
        "interval": "95 % of the difference from dense, paired bootstrap over scenes",
        "command": "python -m benchmarks.quality.patterns",
    }  # fmt: skip
    shared.written(given.out, protocol, rows=result["rows"], left_out=result["left_out"])
