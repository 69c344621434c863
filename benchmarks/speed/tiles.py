"""The sparse attention core at several kept counts: its share of the limit, and why counts are rounded.

`python -m benchmarks.speed.tiles` writes benchmarks/results/tiles-<device>.json.
"""

import argparse
from functools import partial

import torch
from benchmarks import harness
from torch.nn.functional import scaled_dot_product_attention

from sparsight.ops.attention import sparse_attention
from sparsight.ops.partition import top
from sparsight.stages import timing

HEADS = {"ViT-S": 6, "ViT-L": 16}
CASES = (  # name, tokens, kept counts: an eighth and its neighbours
    ("ViT-S", 1370, (128, 160, 171, 192, 224)),
    ("ViT-S", 5477, (640, 685, 704, 768, 832)),
    ("ViT-L", 5477, (640, 685, 704, 768, 832)),
    ("ViT-S", 16385, (2048,)),
)
DENSE, BUDGET_S = "dense", 60.0


def measured(name: str, tokens: int, counts: tuple[int, ...], device: torch.device) -> list[dict]:
    """A row for the dense core and for each count; `limit` is what the FLOPs of a count allow."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, HEADS[name], tokens, 64, device=device)
    arms = {DENSE: lambda: lambda: scaled_dot_product_attention(q, k, v)}
    ranked = top(torch.rand(1, tokens, device=device), max(counts), 1)
    arms |= {str(n): lambda n=n: lambda: sparse_attention(q, k, v, ranked, n, n) for n in counts}
    rows = harness.measure(arms, BUDGET_S, f"{name} {tokens} tokens", device, most=41)
    harness.speedups(rows, DENSE)
    for row, kept in zip(rows, (tokens, *counts), strict=True):
        row |= {"kept": kept, "limit": 1.0 if kept == tokens else tokens / (2 * kept)}
    return [{"model": name, "tokens": tokens} | row for row in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    harness.limit_memory()
    cases = {f"{case[0]} {case[1]} tokens": partial(measured, *case, device) for case in CASES}
    protocol = timing.protocol(
        device, torch.float32, batch=1, command="python -m benchmarks.speed.tiles"
    )
    harness.run(f"tiles-{device.type}", __file__, cases, protocol)
