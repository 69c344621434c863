"""Skipping and completing on CamVid's validation frames, for the encoder that train.py made.

`python -m benchmarks.camvid.run --data CAMVID` writes benchmarks/results/camvid-cpu.json.  Nothing is
trained here: maps are fitted on frames of the training split, without their labels.
"""

from pathlib import Path

import torch
from benchmarks import rows as shared
from benchmarks.camvid.train import CLASSES, SIZE, VOID, CamVid, build
from safetensors.torch import load_file

import sparsight
from sparsight.demo import encoder
from sparsight.demo.evaluate import evaluate
from sparsight.demo.run import FEW
from sparsight.methods import Settings
from sparsight.stages import timing
from sparsight.stages.arm import Arm
from sparsight.stages.bench import bench_of
from sparsight.stages.calibrate import analyze
from sparsight.stages.measure import name

PICTURES = 8  # of calibration
SIX = sparsight.SVE(layers=(2, 6, 7, 8, 9, 10), **FEW)
HOW = {
    "last value": {"completion": "last"},
    "standout, map": {},
    "map-error, map": {"score": "map-error"},
}


def exits(after: tuple[int, ...], each: float, **more: str) -> sparsight.EarlyExit:
    """The same share of those that are there goes on after each exit."""
    keep = tuple(each**n for n in range(1, len(after) + 1))
    return sparsight.EarlyExit(after=after, keep=keep, **more)


def sve(*layers: int) -> sparsight.SVE:
    """In layers before tokens leave."""
    return sparsight.SVE(layers=layers, **FEW)


BY_ERROR = HOW["map-error, map"]
ROWS: dict[str, tuple[Settings, ...]] = {
    "sve": (SIX,),
    "sve, map": (SIX.completed(),),
    **{f"5 and 8, {how}": (exits((5, 8), 0.6, **more),) for how, more in HOW.items()},
    **{f"3, 6, 9, {how}": (exits((3, 6, 9), 0.7, **more),) for how, more in HOW.items()},
    "sve, map + 5 and 8": (sve(2, 5).completed(), exits((5, 8), 0.6, **BY_ERROR)),
    "sve, map + 6 and 9": (sve(2, 6).completed(), exits((6, 9), 0.6, **BY_ERROR)),
    "sve, map + 3, 6, 9": (sve(2, 3).completed(), exits((3, 6, 9), 0.7, **BY_ERROR)),
    "sve + 3, 6, 9": (sve(0, 1, 2, 3), exits((3, 6, 9), 0.7, **BY_ERROR)),
    **{f"mlp 1/{n}": (sparsight.MLPRouting(layers=range(4, 12), keep=1 / n),) for n in (2, 4)},
    "sve, map + mlp": (SIX.completed(), sparsight.MLPRouting(layers=range(4, 12), keep=1 / 2)),
}

if __name__ == "__main__":
    parser = shared.parser(__doc__, "camvid-cpu", 101, repeats=7)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=101, help="validation frames, at most")
    parser.add_argument("--weights", type=Path, default=Path("runs/camvid/camvid.safetensors"))
    parser.add_argument("--only", default="", help="rows with this in their name")
    given = parser.parse_args()
    model = build()
    model.load_state_dict(load_file(given.weights))
    images = sparsight.ImageFolder(given.data / "train" / "images", SIZE, encoder.MEAN, encoder.STD)
    bench = bench_of(model.eval(), images, PICTURES)
    chosen = [row for row in ROWS if given.only in row]
    prepared = {row: shared.completed(bench, ROWS[row], given.work / row) for row in chosen}
    plans = {row: plan for row, (plan, _) in prepared.items()}
    arms, val = shared.applied(model, plans), CamVid(given.data / "val")
    samples = [val[i] for i in range(min(given.frames, len(val)))]
    key = (len(samples), chosen, model.segmentation.weight.flatten()[:8].tolist())
    quality = shared.kept(
        given.work / "quality.json",
        lambda: evaluate({n: Arm(m) for n, m in arms.items()}, samples, CLASSES, slice(None), VOID),
        *key,
    )
    found = shared.kept(
        given.work / "analysis.json",
        lambda: analyze(model, images, PICTURES).model_dump(mode="json"),
        *key,
    )
    speed = shared.time_on(arms, [samples[0].picture], given.repeats)
    rows = [
        shared.said(plans.get(arm))
        | {"completing_s": prepared[arm][1] if arm in prepared else None}
        | speed[arm]
        | quality[arm]
        for arm in arms
    ]
    protocol = timing.protocol(
        torch.device("cpu"), torch.float32, resolution=name(SIZE), batch=1, repeats=given.repeats,
        frames=len(samples), calibration_pictures=PICTURES,
        miou="mean over the eleven classes of the IoU of pixels, void ignored",
        interval="95 % of the difference from dense, paired bootstrap over frames",
        command="python -m benchmarks.camvid.run --data CAMVID",
    )  # fmt: skip
    shared.written(given.out, protocol, rows=rows, analysis=found)
    for row in rows:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
