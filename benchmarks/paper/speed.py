"""The columns that need no weights: latency in one interleaved run, and the count of operations."""

import copy
from typing import Any

import torch
from benchmarks.paper.config import Encoder
from torch import nn

import sparsight
from sparsight.attach import family_in
from sparsight.methods import tensor_name
from sparsight.models import load_model
from sparsight.plan import Plan
from sparsight.stages import timing
from sparsight.stages.measure import fused

KEEP = 1 / 8


def measured(encoder: Encoder, device: torch.device, repeats: int) -> dict[str, Any]:
    """Dense against SVE with its projector, adjacent layers reusing one ranking, on random weights."""
    dense = load_model(encoder.model, encoder.size).model.to(device)
    sparse = sparsight.apply(copy.deepcopy(dense), plan_for(dense, encoder))
    models = {"dense": dense, "sve": sparse}
    picture = torch.randn(1, 3, *encoder.size, device=device)
    calls = {arm: lambda m=m: family_in(m).features(m, picture) for arm, m in models.items()}
    with fused(dense, sparse):
        times = timing.interleave(calls, repeats, device, f"{encoder.name} {encoder.resolution}")
    row: dict[str, Any] = {
        arm: timing.summary(times[arm]) | {"tflop": tflop(models[arm], encoder.size)} for arm in models
    }
    return row | {
        "speedup": row["dense"]["latency_ms"] / row["sve"]["latency_ms"],
        "saved": 1 - row["sve"]["tflop"] / row["dense"]["tflop"],
    }


def plan_for(model: nn.Module, encoder: Encoder) -> Plan:
    """SVE on the encoder's layers, with made-up projectors."""
    family = family_in(model)
    layers = family.global_layers(model)
    groups: tuple[tuple[int, ...], ...] = ()
    if isinstance(encoder.layers, tuple):
        layers = tuple(range(encoder.layers[0], encoder.layers[1] + 1))
        groups = (layers,)
    blocks = family.blocks(model)
    method = sparsight.SVE(layers=layers, keep=KEEP, score="linear", groups=groups)
    return Plan(methods=(method,)).with_(
        weights={tensor_name("sve", n, "projector"): torch.randn(family.dim(blocks[n])) for n in layers}
    )


def tflop(model: nn.Module, size: tuple[int, int]) -> float:
    """Of one picture, counted without computing anything; the model's weights are gone afterwards."""
    shadow = model.to("meta")
    picture = torch.empty(1, 3, *size, device="meta")
    return timing.gflops(lambda: family_in(shadow).features(shadow, picture)) / 1e3
