"""SAM 2's encoders with windows dropped in their windowed blocks, their global blocks sparse, and both.

`python -m benchmarks.speed.sam2_windows` writes results/sam2-windows-<device>.json.  Weights are
random, maps and projectors zero: only speed is meant.
"""

import argparse
import copy

import timm
import torch
from benchmarks import harness
from benchmarks.speed.sam2 import measured
from torch import nn

import sparsight
from sparsight.attach import as_plan, family_in
from sparsight.fit import named_shapes, with_layers
from sparsight.methods import Settings
from sparsight.stages import timing
from sparsight.stages.bench import blank

MODELS = ("sam2_hiera_tiny", "sam2_hiera_large")
SIDE = 1024


def windows(sparsity: float) -> sparsight.SparseViT:
    """With what repairs them."""
    return sparsight.SparseViT(sparsity=sparsity).completed()


SEEING_ALL = {"1/8, sampled": (1 / 8, "sampled"), "1/16, linear": (1 / 16, "linear")}


def settings_on(layers: tuple[int, ...]) -> dict[str, list[Settings]]:
    """Every sparse arm; `layers` are the global blocks."""
    sve = {
        f"keep {label}": sparsight.SVE(layers=layers, keep=keep, score=score, completion="map")
        for label, (keep, score) in SEEING_ALL.items()
    }
    routed = sparsight.MLPRouting(layers=layers, keep=1 / 4)
    found: dict[str, list[Settings]] = {label: [config] for label, config in sve.items()}
    found["windows 60 %, as published"] = [sparsight.SparseViT(sparsity=0.6)]
    for dropped in (0.4, 0.6):
        found[f"windows {dropped:.0%}, map"] = [windows(dropped)]
        for label, config in sve.items():
            found[f"windows {dropped:.0%}, map; {label}"] = [config, windows(dropped)]
    best = next(reversed(found))
    found[f"{best}, MLP 1/4"] = [*found[best], routed]
    return found


def sparse(dense: nn.Module, methods: list[Settings]) -> nn.Module:
    """A copy with the methods applied; what they would have fitted is zero."""
    family = family_in(dense)
    plan = with_layers(as_plan(methods), dense, family)
    return sparsight.apply(copy.deepcopy(dense), blank(plan, named_shapes(plan, dense, family)))


def models_on(name: str, device: torch.device) -> dict[str, nn.Module]:
    """Every arm; the dense one first."""
    torch.manual_seed(0)
    dense = timm.create_model(name).eval().to(device)
    layers = family_in(dense).global_layers(dense)
    return {"dense, timm": dense} | {
        label: sparse(dense, methods) for label, methods in settings_on(layers).items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--side", type=int, default=SIDE)
    given = parser.parse_args()
    device, rows = torch.device(given.device), []
    for name in given.models:
        picture = torch.randn(1, 3, given.side, given.side, device=device)
        found = measured(models_on(name, device), picture, given.repeats, name)
        rows += [{"model": name} | row for row in found]
        result = {  # written after each model: what was measured is not lost to an interrupt
            "protocol": timing.protocol(
                device, torch.float32, models=list(given.models), batch=1, repeats=given.repeats,
                weights="random", command="python -m benchmarks.speed.sam2_windows",
            ),
            "rows": rows,
        }  # fmt: skip
        harness.save(f"sam2-windows-{device.type}", __file__, result)
