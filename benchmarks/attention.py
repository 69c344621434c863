"""One attention module, as in SVE's Table 4: core, predictor, reuse, and what ranking costs.

`python benchmarks/attention.py` writes benchmarks/results/attention-<device>.json.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

from sparsight._torchvision import repair
from sparsight.families import family_named
from sparsight.files import write_json
from sparsight.methods.sve import score
from sparsight.ops.attention import sparse_attention
from sparsight.ops.partition import inverse, kept_count, rank, take, take_heads
from sparsight.stages import timing

repair()
from timm.models.vision_transformer import Block  # noqa: E402

WIDTHS = {"ViT-S": (384, 6), "ViT-B": (768, 12), "ViT-L": (1024, 16)}  # name -> dim, heads
CASES = (("ViT-S", 1370), ("ViT-S", 5477), ("ViT-B", 5477), ("ViT-L", 5477), ("ViT-S", 16385))
KEEP, PREFIX = 1 / 8, 1


def arms_for(block, tokens: int, dim: int, device: torch.device) -> tuple[dict, int]:
    """Everything that is timed on one block and one size, and the kept count."""
    parts = family_named("timm_vit").parts
    h, weight = torch.randn(1, tokens, dim, device=device), torch.randn(dim, device=device)
    kept = kept_count(tokens, KEEP, PREFIX)
    q, k, v = parts.qkv(block, h)
    order = rank(score.linear(h, weight), PREFIX)
    undo = inverse(order)

    def dense():
        return parts.merge(block, scaled_dot_product_attention(*parts.qkv(block, h)).transpose(1, 2), h)

    def reused(tokens_in_order=h):
        qkv = parts.qkv(block, tokens_in_order)
        return parts.merge(block, sparse_attention(*qkv, kept, kept), tokens_in_order)

    def predicted():
        order = rank(score.linear(h, weight), PREFIX)
        return take(reused(take(h, order)), inverse(order))

    def ranked_by(scorer):
        q, k, v = parts.qkv(block, h)
        order = rank(scorer(q, k), PREFIX)
        out = sparse_attention(*(take_heads(x, order) for x in (q, k, v)), kept, kept)
        return take(parts.merge(block, out, h), inverse(order))

    def score_and_permute():
        order = rank(score.linear(h, weight), PREFIX)
        return take(take(h, order), inverse(order))

    return {
        "core dense": lambda: scaled_dot_product_attention(q, k, v),
        "core sparse": lambda: sparse_attention(q, k, v, kept, kept),
        "module dense": dense,
        "module exact": lambda: ranked_by(score.exact),
        "module sampled 1/8": lambda: ranked_by(partial(score.sampled, prefix=PREFIX, every=8)),
        "module sampled 1/16": lambda: ranked_by(partial(score.sampled, prefix=PREFIX, every=16)),
        "module linear": predicted,
        "module reuse": reused,
        "score and permute": score_and_permute,
        "permute back alone": lambda: take(h, undo),
    }, kept


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    rows = []
    for name, tokens in CASES:
        dim, heads = WIDTHS[name]
        torch.manual_seed(0)
        block = Block(dim, heads, qkv_bias=True).eval().to(device)
        with torch.inference_mode():
            arms, kept = arms_for(block, tokens, dim, device)
        repeats = max(3, arguments.repeats // (3 if tokens > 10_000 else 1))
        times = timing.interleave(arms, repeats, device, f"{name} {tokens}")
        row = {"model": name, "tokens": tokens, "kept": kept, "repeats": repeats}
        row["limit"] = 1 / (1 - (1 - kept / tokens) ** 2)
        row["arms"] = {arm: timing.summary(t) for arm, t in times.items()}
        for arm in row["arms"]:
            base = row["arms"]["core dense" if arm.startswith("core") else "module dense"]
            row["arms"][arm]["speedup"] = base["latency_ms"] / row["arms"][arm]["latency_ms"]
        reuse = row["arms"]["module reuse"]["latency_ms"]
        row["overhead"] = row["arms"]["score and permute"]["latency_ms"] / reuse
        rows.append(row)
        print(name, tokens, {a: round(r["speedup"], 2) for a, r in row["arms"].items()}, flush=True)
    result = {
        "protocol": timing.protocol(
            device, torch.float32, keep=KEEP, batch=1, repeats=arguments.repeats,
            command="python benchmarks/attention.py",
        ),
        "rows": rows,
    }  # fmt: skip
    write_json(Path(__file__).parent / "results" / f"attention-{device.type}.json", result)
