"""How the cost of one attention module grows from 1 K to 64 K tokens.

`python -m benchmarks.speed.scaling` writes results/scaling-<device>.json; tables/speed.py fits the
exponents, and tables/plots.py draws them.
"""

import argparse
from functools import partial
from typing import Any

import torch
from benchmarks import harness
from torch import Tensor

from sparsight._torchvision import repair
from sparsight.families import family_named
from sparsight.ops.attention import sparse_attention
from sparsight.ops.partition import kept_count, top
from sparsight.scores.attention import linear
from sparsight.scores.view import View
from sparsight.stages import timing

repair()
from timm.models.vision_transformer import Block  # noqa: E402

DIM, HEADS, PREFIX = 384, 6, 1
TOKENS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
FITTED_FROM, BUDGET_S = 4096, 6.0  # below, linear layers and the calls themselves weigh too much
ARMS = ("dense", "keep 1/8", "keep 512 tokens")
TOO_LONG_S = 100.0  # a dense pass of one module that would take longer is not measured


def arms_for(block: Any, tokens: int, device: torch.device) -> dict[str, harness.Build]:
    """The dense module, one that keeps a fraction, and one that keeps a count."""
    parts = family_named("timm_vit").parts
    attn, h = parts.attention(block), torch.randn(1, tokens, DIM, device=device)
    view = View(h, h, PREFIX, tensors={"projector": torch.randn(DIM, device=device)})

    def sparse(kept: int) -> Tensor:
        ranked = top(linear(view), kept, PREFIX)
        return parts.merge(attn, sparse_attention(*parts.qkv(attn, h), ranked, kept, kept), h)

    eighth = kept_count(tokens, 1 / 8, PREFIX)
    calls = {
        "dense": partial(attn, h),
        "keep 1/8": lambda: sparse(eighth),
        "keep 512 tokens": lambda: sparse(512),
    }
    return {name: lambda call=call: call for name, call in calls.items()}


def measured(block: Any, tokens: int, device: torch.device) -> list[dict[str, Any]]:
    """The arms at one number of tokens."""
    work = (4 * tokens**2 * DIM + 8 * tokens * DIM**2) / 1e9
    if harness.attention_s(work, device) > TOO_LONG_S:
        hole = f"a dense pass takes more than {TOO_LONG_S:.0f} s here"
        return [{"tokens": tokens, "arm": arm, "hole": hole} for arm in ARMS]
    with torch.inference_mode():
        arms = arms_for(block, tokens, device)
    rows = harness.measure(arms, BUDGET_S, f"{tokens} tokens", device)
    harness.speedups(rows, ARMS[0])
    return [{"tokens": tokens} | row for row in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    harness.limit_memory()
    torch.manual_seed(0)
    block = Block(DIM, HEADS, qkv_bias=True).eval().to(device)
    protocol = timing.protocol(
        device, torch.float32, model="ViT-S attention module", batch=1,
        fitted_from=FITTED_FROM, command="python -m benchmarks.speed.scaling",
    )  # fmt: skip
    cases = {f"{n} tokens": partial(measured, block, n, device) for n in TOKENS}
    harness.run(f"scaling-{device.type}", __file__, cases, protocol)
