"""Encoders that no family describes, at true width, dense and sparse where they attend.  Random weights.

`python -m benchmarks.speed.sites` writes results/sites-<device>.json: a few layers of Qwen3-VL's
tower at 1792 px; PaliGemma's SigLIP and Depth Anything's DINOv2-S, whole; three layers of SAM's; and
one packed batch of three sizes beside its pictures one by one.  Only speed is meant.
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from benchmarks import harness
from torch import nn

import sparsight
from sparsight._torchvision import repair
from sparsight.attach import family_in
from sparsight.families.inputs import inputs_of
from sparsight.stages import timing
from sparsight.stages.measure import fused, name

KEEP, DENSE, BUDGET_S = 1 / 8, "dense", 60.0
LAYERS = 4  # of Qwen3-VL's 27: every layer costs the same
MIXED = ((512, 512), (768, 1024), (1024, 768))  # a packed batch


def qwen3_vl(device: torch.device) -> nn.Module:
    """Width and heads of Qwen3-VL 8B's tower."""
    from transformers import Qwen3VLVisionConfig, Qwen3VLVisionModel

    config = Qwen3VLVisionConfig(
        hidden_size=1152, num_heads=16, intermediate_size=4304, depth=LAYERS, out_hidden_size=4096,
        deepstack_visual_indexes=[1],
    )  # fmt: skip
    return Qwen3VLVisionModel(config).eval().to(device)


def siglip(device: torch.device) -> nn.Module:
    """PaliGemma's at 896 px: SigLIP So400m, patches of 14."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16,
        image_size=896, patch_size=14,
    )  # fmt: skip
    return SiglipVisionModel(config).eval().to(device)


def depth_anything(device: torch.device) -> nn.Module:
    """The backbone of Depth Anything's small model."""
    from transformers import Dinov2Backbone, Dinov2Config

    config = Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14,
        out_indices=[3, 6, 9, 12],
    )  # fmt: skip
    return Dinov2Backbone(config).eval().to(device)


def sam(device: torch.device) -> nn.Module:
    """SAM ViT-B's first three layers, of which the third has global attention, with its bias."""
    from transformers import SamVisionConfig, SamVisionModel

    config = SamVisionConfig(num_hidden_layers=3, global_attn_indexes=[2])
    return SamVisionModel(config).vision_encoder.eval().to(device)


MODELS: dict[str, tuple[Callable[[torch.device], nn.Module], int]] = {
    f"Qwen3-VL tower, {LAYERS} layers": (qwen3_vl, 1792),
    "PaliGemma's SigLIP So400m": (siglip, 896),
    "Depth Anything's DINOv2-S": (depth_anything, 1036),
    "SAM ViT-B, 3 of its 12 layers": (sam, 1024),
}


def measured(what: str, device: torch.device) -> list[dict[str, Any]]:
    """Dense and sparse in every layer."""
    build, size = MODELS[what]
    torch.manual_seed(0)
    dense = build(device)
    picture = torch.randn(1, 3, size, size, device=device)
    features = family_in(dense).features
    with fused(dense):
        sparse = applied(dense)
        arms: dict[str, harness.Build] = {
            DENSE: lambda: partial(features, dense, picture),
            "sparse, sampled": lambda: partial(family_in(sparse).features, sparse, picture),
        }
        rows = harness.measure(arms, BUDGET_S, f"{what} {size} px", device, most=5)
    harness.speedups(rows, DENSE)
    limits(rows)
    return [{"model": what, "resolution": name((size, size))} | row for row in rows]


def applied(dense: nn.Module) -> nn.Module:
    """A copy, sparse in all layers."""
    return sparsight.apply(copy.deepcopy(dense), sparsight.SVE(layers="all", keep=KEEP))


def limits(rows: list[dict[str, Any]]) -> None:
    """Add the speedup that the FLOPs allow."""
    whole = next((row["gflops"] for row in rows if row["arm"] == DENSE and "gflops" in row), None)
    for row in rows:
        if whole and "gflops" in row:
            row["limit"] = whole / row["gflops"]


def packed(device: torch.device) -> list[dict[str, Any]]:
    """Three sizes in one packed call, and one after the other, both sparse."""
    torch.manual_seed(0)
    sparse = applied(qwen3_vl(device))
    single = [inputs_of(sparse, torch.randn(1, 3, *size, device=device), True) for size in MIXED]
    batch = {key: torch.cat([one[key] for one in single]) for key in single[0]}

    def one_by_one() -> list[Any]:
        return [sparse(**one) for one in single]

    with fused(sparse):
        rows = harness.measure(
            {"one by one": lambda: one_by_one, "packed": lambda: partial(sparse, **batch)},
            BUDGET_S, "packed", device, most=7,
        )  # fmt: skip
    harness.speedups(rows, "one by one")
    at = {"model": f"Qwen3-VL tower, {LAYERS} layers, sparse", "resolution": ", ".join(map(name, MIXED))}
    return [at | row for row in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="cases with this in their name; others are kept")
    given = parser.parse_args()
    repair()
    device = torch.device(given.device)
    cases = {what: partial(measured, what, device) for what in MODELS}
    cases["packed"] = partial(packed, device)
    protocol = timing.protocol(
        device,
        torch.float32,
        batch=1,
        keep=KEEP,
        weights="random",
        command="python -m benchmarks.speed.sites",
    )
    harness.run(f"sites-{device.type}", __file__, cases, protocol, given.only)
