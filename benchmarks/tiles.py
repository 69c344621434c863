"""The sparse attention core at neighbouring kept counts: why `kept_count` rounds as it does.

`python benchmarks/tiles.py` writes benchmarks/results/tiles-<device>.json.
"""

import argparse
from functools import partial

import harness
import torch

from sparsight.ops.attention import sparse_attention
from sparsight.stages import timing

HEADS = {"ViT-S": 6, "ViT-L": 16}
CASES = (  # name, tokens, counts around an eighth of them
    ("ViT-S", 1370, (128, 160, 171, 192, 224)),
    ("ViT-S", 5477, (640, 685, 704, 768, 832)),
    ("ViT-L", 5477, (640, 685, 704, 768, 832)),
)
BUDGET_S = 30.0


def measured(name: str, tokens: int, counts: tuple[int, ...], device: torch.device) -> list[dict]:
    """A row for each count; `against` is its time as a share of that of the count nearest an eighth."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, HEADS[name], tokens, 64, device=device)
    arms = {str(n): lambda n=n: lambda: sparse_attention(q, k, v, n, n) for n in counts}
    rows = harness.measure(arms, BUDGET_S, f"{name} {tokens} tokens", device, most=41)
    nearest = str(min(counts, key=lambda n: abs(n - tokens / 8)))
    harness.speedups(rows, nearest)
    return [
        {"model": name, "tokens": tokens, "kept": int(row["arm"]), "against": 1 / row["speedup"]} | row
        for row in rows
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    harness.limit_memory()
    cases = {f"{case[0]} {case[1]} tokens": partial(measured, *case, device) for case in CASES}
    protocol = timing.protocol(device, torch.float32, batch=1, command="python benchmarks/tiles.py")
    harness.run(f"tiles-{device.type}", __file__, cases, protocol)
