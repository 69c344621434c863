"""One attention module, as in SVE's Table 4: core, predictor, reuse, and the peers of the core.

`python -m benchmarks.speed.attention` writes benchmarks/results/attention-<device>.json.
"""

import argparse
import copy
from functools import partial
from typing import Any

import torch
from benchmarks import harness
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from sparsight._torchvision import repair
from sparsight.families import family_named
from sparsight.inplace import argument_names, change
from sparsight.methods import SVE
from sparsight.methods.site import Site
from sparsight.methods.sve.attention import SparseAttention
from sparsight.methods.sve.pattern import Pattern
from sparsight.ops.attention import sparse_attention
from sparsight.ops.partition import kept_count, top
from sparsight.scores.attention import linear
from sparsight.scores.view import View
from sparsight.stages import timing

repair()
from timm.models.vision_transformer import Block  # noqa: E402

WIDTHS = {"ViT-S": (384, 6), "ViT-B": (768, 12), "ViT-L": (1024, 16)}  # name -> dim, heads
CASES = (  # name, tokens, batch
    ("ViT-S", 1370, 1),
    ("ViT-S", 1370, 8),
    ("ViT-S", 5477, 1),
    ("ViT-B", 5477, 1),
    ("ViT-L", 5477, 1),
    ("ViT-S", 16385, 1),
)
KEEP, PREFIX, BUDGET_S = 1 / 8, 1, 60.0
PEERS_UP_TO = 6_000  # tokens: beyond, a map of N x N and slow kernels take the machine's memory or day


def changed(config: Any, layer: int, block: Any, h: Tensor, shared: Any = None) -> Any:
    """The block's attention module, made sparse as a plan makes it; with made-up projectors."""
    attn, family = (
        copy.deepcopy(family_named("timm_vit").parts.attention(block)),
        family_named("timm_vit"),
    )
    site = Site(family, PREFIX, config, layer, layer + 1, argument_names(attn), shared)
    tensors = {"projector": torch.randn(h.shape[2], device=h.device)} if config.score == "linear" else {}
    change(attn, SparseAttention, site, tensors)
    return attn


def module_arms(block: Any, h: Tensor, kept: int) -> dict[str, harness.Build]:
    """Everything that is timed on one block and one size."""
    parts = family_named("timm_vit").parts
    attn = parts.attention(block)
    q, k, v = parts.qkv(attn, h)
    mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2)
    ranked = top(torch.rand(h.shape[:2], device=h.device), kept, PREFIX)
    weight = torch.randn(h.shape[2], device=h.device)
    view = View(h, h, PREFIX, tensors={"projector": weight})

    def ranking(score: str, every: int = 16) -> Any:
        config = SVE(layers=(0,), keep=KEEP, score=score, sample_every=every, min_tokens=0)
        return partial(changed(config, 0, block, h), h)

    def reusing() -> Any:
        config, pattern = SVE(layers=(0, 1), keep=KEEP, groups=((0, 1),), min_tokens=0), Pattern()
        pattern.give(((ranked, h.shape[1]),))
        return partial(changed(config, 1, block, h, pattern), h)

    calls = {
        "core dense": lambda: scaled_dot_product_attention(q, k, v),
        "core sparse": lambda: sparse_attention(q, k, v, ranked, kept, kept),
        "module dense": partial(attn, h),
        "module exact": ranking("exact"),
        "module sampled 1/8": ranking("sampled", 8),
        "module sampled 1/16": ranking("sampled"),
        "module linear": ranking("linear"),
        "module reuse": reusing(),
        "linear layers": lambda: (parts.qkv(attn, h), parts.merge(attn, mixed, h)),
        "score and select": lambda: top(linear(view), kept, PREFIX),
    }
    return {name: lambda call=call: call for name, call in calls.items()}


def peers(block: Any, h: Tensor, kept: int) -> dict[str, harness.Build]:
    """Other ways to compute the dense core, and the sparse one on tokens already in ranked order."""
    parts = family_named("timm_vit").parts
    q, k, v = parts.qkv(parts.attention(block), h)

    def backend(kind: SDPBackend) -> Any:
        def run() -> Tensor:
            with sdpa_kernel([kind]):
                return scaled_dot_product_attention(q, k, v)

        return run

    def masked() -> Any:
        place = torch.arange(h.shape[1], device=h.device)
        mask = (place[:, None] < kept) | (place[None, :] < kept)
        return lambda: scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def flex() -> Any:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        def seen(b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query < kept) | (key < kept)

        n = h.shape[1]
        blocks = create_block_mask(seen, None, None, n, n, device=h.device.type)  # built once
        run = torch.compile(flex_attention, fullgraph=True)
        return lambda: run(q, k, v, block_mask=blocks)

    kinds = ("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION")
    return {
        **{f"core dense, {kind}": partial(backend, getattr(SDPBackend, kind)) for kind in kinds},
        "core sparse, boolean mask": masked,
        "core sparse, FlexAttention, compiled": flex,
    }


def measured(name: str, tokens: int, batch: int, device: torch.device) -> list[dict[str, Any]]:
    """One row: every arm of one block and size."""
    dim, heads = WIDTHS[name]
    torch.manual_seed(0)
    block = Block(dim, heads, qkv_bias=True).eval().to(device)
    kept = kept_count(tokens, KEEP, PREFIX)
    with torch.inference_mode():
        h = torch.randn(batch, tokens, dim, device=device)
        arms = module_arms(block, h, kept)
        if tokens <= PEERS_UP_TO and batch == 1:
            arms |= peers(block, h, kept)
    rows = harness.measure(arms, BUDGET_S, f"{name} {tokens} tokens, batch {batch}", device, most=21)
    found = {row.pop("arm"): row for row in rows}
    for arm, row in found.items():
        if "latency_ms" in row:
            base = found["core dense" if arm.startswith("core") else "module dense"]
            row["speedup"] = base["latency_ms"] / row["latency_ms"]
    ms = {arm: row.get("latency_ms", float("nan")) for arm, row in found.items()}
    return [{
        "model": name, "tokens": tokens, "batch": batch, "kept": kept,
        "limit": tokens / (2 * kept),
        "overhead": ms["score and select"] / ms["module reuse"],
        "unexplained": 1 - (ms["linear layers"] + ms["core sparse"]) / ms["module reuse"],
        "arms": found,
    }]  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    harness.limit_memory()
    cases = {
        f"{name} {tokens} tokens, batch {batch}": partial(measured, name, tokens, batch, device)
        for name, tokens, batch in CASES
    }
    protocol = timing.protocol(
        device, torch.float32, keep=KEEP, command="python -m benchmarks.speed.attention"
    )
    harness.run(f"attention-{device.type}", __file__, cases, protocol)
