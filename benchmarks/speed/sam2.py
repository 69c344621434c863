"""SAM 2's encoder (Hiera tiny) with sparse global blocks, against the fastest dense form of it.

`python -m benchmarks.speed.sam2` writes results/sam2-<device>.json.  Random weights: only speed is
meant.  The dense model runs as timm has it, as transformers has it, and as that without the softmax it
computes and does not use.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
from benchmarks import harness
from torch import Tensor, nn

import sparsight
from sparsight._torchvision import repair
from sparsight.attach import as_plan, family_in
from sparsight.methods import tensor_name
from sparsight.stages import timing
from sparsight.stages.measure import fused, name

MODEL = "sam2_hiera_tiny"
RESOLUTIONS = (1024, 2048)
KEEPS = {"1/8": 1 / 8, "1/16": 1 / 16}


def sparse(dense: nn.Module, keep: float, score: str) -> nn.Module:
    """A copy of `dense` with every global block sparse, with made-up projectors where needed."""
    family = family_in(dense)
    blocks, layers = family.blocks(dense), family.global_layers(dense)
    weights = {tensor_name("sve", n, "projector"): torch.randn(family.dim(blocks[n])) for n in layers}
    plan = as_plan(sparsight.SVE(layers=layers, keep=keep, score=score))
    if score == "linear":
        plan = plan.with_(weights=weights)
    return sparsight.apply(copy.deepcopy(dense), plan)


def models_on(device: torch.device) -> dict[str, nn.Module]:
    """Every arm; the dense ones first."""
    repair()
    from transformers import Sam2HieraDetConfig, Sam2HieraDetModel

    torch.manual_seed(0)
    plain = timm.create_model(MODEL).eval().to(device)
    theirs = Sam2HieraDetModel(Sam2HieraDetConfig()).eval().to(device)  # the default is the tiny one
    models = {
        "dense, timm": plain,
        "dense, transformers": theirs,
        "dense, transformers, lean": copy.deepcopy(theirs),
    }
    for score in ("sampled", "linear"):
        for fraction, keep in KEEPS.items():
            models[f"keep {fraction}, {score}"] = sparse(plain, keep, score)
    return models


def clocked(model: nn.Module, call: Callable[[], Any], spent: list[float]) -> Callable[[], Any]:
    """`call`, which also adds to `spent` the seconds it was in the blocks with global attention."""
    family, clock = family_in(model), list[float]()

    def tick(*_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        clock.append(time.perf_counter())

    for layer in family.global_layers(model):
        family.blocks(model)[layer].register_forward_pre_hook(tick)
        family.blocks(model)[layer].register_forward_hook(tick)

    def run() -> None:
        clock.clear()
        call()
        spent.append(sum(clock[1::2]) - sum(clock[::2]))

    return run


def measured(
    models: dict[str, nn.Module], picture: Tensor, repeats: int, model: str
) -> list[dict[str, Any]]:
    """One resolution of `model`: a row for each arm."""
    spent: dict[str, list[float]] = {arm: [] for arm in models}
    calls = {
        arm: clocked(model, lambda m=model: family_in(m).features(m, picture), spent[arm])
        for arm, model in models.items()
    }
    resolution = name(tuple(picture.shape[2:]))
    with fused(*(model for arm, model in models.items() if arm != "dense, transformers")):
        times = timing.interleave(calls, repeats, picture.device, f"{model} {resolution}")
        rows = [
            {"resolution": resolution, "arm": arm}
            | timing.summary(times[arm])
            | {
                "global_blocks_s": statistics.median(spent[arm][1:]),  # without the warm-up
                "gflops": timing.gflops(call),
            }
            for arm, call in calls.items()
        ]
    dense = min(
        (row for row in rows if row["arm"].startswith("dense")), key=lambda row: row["latency_ms"]
    )
    for row in rows:
        row["speedup"] = dense["latency_ms"] / row["latency_ms"]
        row["limit"] = dense["gflops"] / row["gflops"]
        print(resolution, row["arm"], f"{row['speedup']:.2f}", f"{row['limit']:.2f}", flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=RESOLUTIONS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    rows = []
    for size in arguments.sizes:
        rows += measured(
            models_on(device), torch.randn(1, 3, size, size, device=device), arguments.repeats, MODEL
        )
        result = {  # written after each resolution: what was measured is not lost to an interrupt
            "protocol": timing.protocol(
                device, torch.float32, model=MODEL, batch=1, repeats=arguments.repeats,
                weights="random", command="python -m benchmarks.speed.sam2",
            ),
            "rows": rows,
        }  # fmt: skip
        harness.save(f"sam2-{device.type}", __file__, result)
