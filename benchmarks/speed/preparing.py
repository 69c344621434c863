"""What preparing a model costs: statistics and maps against a forward pass, distilling against training.

`python -m benchmarks.speed.preparing` writes results/preparing-<device>.json.  Random weights.
Calibration: `analyze` and `complete` of two pictures against dense passes of both.  Distillation: a
step (teacher, sparse student, backward, AdamW) against a training step of the dense model on a loss of
its final features, with the same weights learning.
"""

import argparse
import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from benchmarks import harness

import sparsight
from sparsight.attach import as_plan, family_in
from sparsight.models import load_model
from sparsight.plan import Plan
from sparsight.stages import timing
from sparsight.stages.bench import Bench, bench_of
from sparsight.stages.calibrate import analyze
from sparsight.stages.complete import complete
from sparsight.stages.distil import LayerwiseLoss, trainable
from sparsight.stages.measure import fused, name

CALIBRATED = (
    ("demo", 1024),
    ("timm:vit_large_patch14_dinov2", 1036),  # its first blocks: every block costs the same
)
BLOCKS = {"timm:vit_large_patch14_dinov2": 4}
DISTILLED = (("demo", 1024),)
PICTURES = 2


def calibration(model: Any, size: int) -> dict[str, harness.Build]:
    device, family = next(model.parameters()).device, family_in(model)
    pictures = [torch.randn(3, size, size, device=device) for _ in range(PICTURES)]
    bench, depth = bench_of(model, pictures), len(family.blocks(model))
    exit_ = depth // 6
    sve = sparsight.SVE(layers=range(depth), completion="map", min_tokens=0)
    both = (
        sve.model_copy(update={"layers": tuple(range(exit_ + 1)), "completion": "none"}),
        sparsight.EarlyExit(after=(exit_,), min_tokens=0),
    )

    def dense() -> None:
        for picture in pictures:
            family.features(model, picture[None])

    return {
        "dense forward": lambda: dense,
        "analyze": lambda: partial(analyze, model, pictures),
        "complete, SVE in every layer": lambda: partial(completing, bench, as_plan(sve)),
        "complete, SVE and early exit": lambda: partial(completing, bench, as_plan(both)),
    }


def completing(bench: Bench, plan: Plan) -> None:
    with torch.inference_mode(False):  # pictures run in threads of their own, which are not in it
        complete(bench, plan)


@dataclass
class Step:
    """One training step of a loss."""

    loss: Any
    weights: list[Any]

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-6)

    def __call__(self, pictures: Any) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            self.optimizer.zero_grad()
            self.loss(pictures).backward()
            self.optimizer.step()


def distillation(model: Any, size: int) -> dict[str, harness.Build]:
    pictures = torch.randn(1, 3, size, size)
    depth = len(family_in(model).blocks(model))
    layers = tuple(range(depth // 3, depth))

    def dense() -> Any:
        student = copy.deepcopy(model)
        weights = trainable(student, layers, "blocks")
        family = family_in(student)
        step = Step(lambda x: family.features(student, x).square().mean(), list(weights.values()))
        return partial(step, pictures)

    def sparse(score: str) -> Any:
        config = sparsight.SVE(layers=layers, keep=1 / 8, score=score, min_tokens=0)
        student = sparsight.apply(copy.deepcopy(model), config)
        weights = trainable(student, layers, "blocks")
        return partial(Step(LayerwiseLoss(student, model, layers), list(weights.values())), pictures)

    arms = {
        "dense training step": dense,
        "distillation step, sampled": partial(sparse, "sampled"),
        "distillation step, exact": partial(sparse, "exact"),
    }
    return {name: partial(learning, build) for name, build in arms.items()}


def learning(build: Any) -> Any:
    """What is built in inference mode could not learn."""
    with torch.inference_mode(False):
        return build()


def measured(build: Any, source: str, size: int, device: torch.device) -> list[dict[str, Any]]:
    """The arms of one kind of work on one model, against the first of them."""
    torch.manual_seed(0)
    model = load_model(source, (size, size)).model.to(device)
    if source in BLOCKS:
        model.blocks = model.blocks[: BLOCKS[source]]
    with fused(model):
        rows = harness.measure(build(model, size), 45.0, f"{source} {size} px", device, most=5)
    harness.speedups(rows, rows[0]["arm"])
    at = {"model": source, "blocks": len(model.blocks), "resolution": name((size, size))}
    return [at | row | ({"cost": 1 / row["speedup"]} if "speedup" in row else {}) for row in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    harness.limit_memory()
    cases = [(distillation, *case) for case in DISTILLED] + [(calibration, *case) for case in CALIBRATED]
    protocol = timing.protocol(
        device, torch.float32, batch=1, weights="random", command="python -m benchmarks.speed.preparing"
    )
    harness.run(
        f"preparing-{device.type}",
        __file__,
        {
            f"{build.__name__}, {source} {size} px": partial(measured, build, source, size, device)
            for build, source, size in cases
        },
        protocol,
    )
