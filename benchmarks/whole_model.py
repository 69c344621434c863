"""Whole models at high resolution, dense against sparse.  Random weights: only speed is meant.

`python benchmarks/whole_model.py` writes benchmarks/results/whole_model-<device>.json.
"""

import argparse
import copy
from pathlib import Path

import torch

import sparsight
from sparsight.files import write_json
from sparsight.methods import projector_name
from sparsight.models import load_model
from sparsight.plan import Plan
from sparsight.stages import timing
from sparsight.stages.measure import fused, name

CASES = (
    ("vit_small_patch14_dinov2", 518),
    ("vit_small_patch14_dinov2", 1036),
    ("vit_base_patch14_dinov2", 518),
)
KEEP = 1 / 8


def plans(depth: int, dim: int) -> dict[str, Plan]:
    """The deep half, from a third on, all; predicted in each layer, or once and reused."""
    half, third = tuple(range(depth // 2, depth)), tuple(range(depth // 3, depth))
    every = tuple(range(depth))
    settings = {
        "deep half, linear": sparsight.SVE(layers=half, keep=KEEP, scorer="linear"),
        "deep half, linear, reuse": sparsight.SVE(
            layers=half, keep=KEEP, scorer="linear", groups=(half,)
        ),
        "deep half, sampled": sparsight.SVE(layers=half, keep=KEEP, scorer="sampled"),
        "deep half, sampled, reuse": sparsight.SVE(
            layers=half, keep=KEEP, scorer="sampled", groups=(half,)
        ),
        "from 1/3, linear, reuse": sparsight.SVE(
            layers=third, keep=KEEP, scorer="linear", groups=(third,)
        ),
        "all, linear, reuse": sparsight.SVE(layers=every, keep=KEEP, scorer="linear", groups=(every,)),
    }
    weights = {projector_name(n): torch.randn(dim) for n in every}
    return {
        arm: Plan(method=config).with_(weights=weights if config.scorer == "linear" else None)
        for arm, config in settings.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    rows = []
    for timm_name, size in CASES:
        model = load_model(f"timm:{timm_name}", (size, size)).model.to(device)
        models = {"dense": model}
        for arm, plan in plans(len(model.blocks), model.embed_dim).items():
            models[arm] = sparsight.apply(copy.deepcopy(model), plan)
        picture = torch.randn(1, 3, size, size, device=device)
        calls = {arm: lambda m=m, p=picture: m.forward_features(p) for arm, m in models.items()}
        with fused(*models.values()):
            times = timing.interleave(calls, arguments.repeats, device, f"{timm_name} {size}")
            for arm, call in calls.items():
                row = {"model": timm_name, "resolution": name((size, size)), "arm": arm}
                rows.append(row | timing.summary(times[arm]) | {"gflops": timing.gflops(call)})
        dense = rows[-len(models)]
        for row in rows[-len(models) :]:
            row["speedup"] = dense["latency_ms"] / row["latency_ms"]
            print(timm_name, size, row["arm"], f"{row['speedup']:.2f}", flush=True)
        result = {  # written after each case: what was measured is not lost to an interrupt
            "protocol": timing.protocol(
                device, torch.float32, keep=KEEP, batch=1, repeats=arguments.repeats,
                weights="random", command="python benchmarks/whole_model.py",
            ),
            "rows": rows,
        }  # fmt: skip
        write_json(Path(__file__).parent / "results" / f"whole_model-{device.type}.json", result)
