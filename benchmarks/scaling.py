"""How the cost of one attention module grows from 1 K to 64 K tokens, and the exponent of each way.

`python benchmarks/scaling.py` writes benchmarks/results/scaling-<device>.json.  The exponent is the
slope of log(latency) over log(tokens) over all sizes measured, by least squares.
"""

import argparse
import math
from typing import Any

import harness
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparsight._torchvision import repair
from sparsight.families import family_named
from sparsight.methods.sve import score
from sparsight.ops.attention import sparse_attention
from sparsight.ops.partition import inverse, kept_count, rank, take
from sparsight.stages import timing

repair()
from timm.models.vision_transformer import Block  # noqa: E402

DIM, HEADS, PREFIX = 384, 6, 1
TOKENS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
FITTED_FROM, BUDGET_S = 1024, 6.0
ARMS = ("dense", "keep 1/8", "keep 512 tokens")
TOO_LONG_S = 5.0  # a dense pass of one module that would take longer is not measured


def arms_for(block: Any, tokens: int, device: torch.device) -> dict[str, harness.Build]:
    """The dense module, one that keeps a fraction, and one that keeps a count."""
    parts = family_named("timm_vit").parts
    h, weight = torch.randn(1, tokens, DIM, device=device), torch.randn(DIM, device=device)

    def dense() -> Tensor:
        return parts.merge(block, scaled_dot_product_attention(*parts.qkv(block, h)).transpose(1, 2), h)

    def sparse(kept: int) -> Tensor:
        order = rank(score.linear(h, weight), PREFIX)
        ranked = take(h, order)
        out = parts.merge(block, sparse_attention(*parts.qkv(block, ranked), kept, kept), ranked)
        return take(out, inverse(order))

    eighth = kept_count(tokens, 1 / 8, PREFIX)
    calls = {
        "dense": dense,
        "keep 1/8": lambda: sparse(eighth),
        "keep 512 tokens": lambda: sparse(512),
    }
    return {name: lambda call=call: call for name, call in calls.items()}


def exponent(rows: list[dict[str, Any]], arm: str) -> float:
    """d log(latency) / d log(tokens)."""
    own = [r for r in rows if r["arm"] == arm and r["tokens"] >= FITTED_FROM and "latency_ms" in r]
    x, y = ([math.log(r[key]) for r in own] for key in ("tokens", "latency_ms"))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)


def plot(rows: list[dict[str, Any]], exponents: dict[str, float], path: str) -> None:
    """Latency over tokens, both logarithmic."""
    from matplotlib.figure import Figure

    from sparsight.report.chart import COLOURS, MARKERS
    from sparsight.report.figures import save_figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for place, (arm, slope) in enumerate(exponents.items()):
        own = [row for row in rows if row["arm"] == arm and "latency_ms" in row]
        axes.loglog(
            [row["tokens"] for row in own], [row["latency_ms"] for row in own], base=2,
            color=COLOURS[place], marker=MARKERS[place], label=f"{arm}: exponent {slope:.2f}",
        )  # fmt: skip
    axes.set(xlabel="tokens", ylabel="latency of one ViT-S attention module (ms)")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, harness.RESULTS / path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    harness.limit_memory()
    torch.manual_seed(0)
    block, rows = Block(DIM, HEADS, qkv_bias=True).eval().to(device), []
    for tokens in TOKENS:
        dense = [r.get("latency_ms", float("inf")) for r in rows if r["arm"] == "dense"]
        if dense and 4 * dense[-1] / 1e3 > TOO_LONG_S:  # twice the tokens, four times the work
            rows += [{"tokens": tokens, "arm": arm, "hole": f"over {TOO_LONG_S:.0f} s"} for arm in ARMS]
            continue
        with torch.inference_mode():
            arms = arms_for(block, tokens, device)
        found = harness.measure(arms, BUDGET_S, f"{tokens} tokens", device, least=1)
        harness.speedups(found, "dense")
        rows += [{"tokens": tokens} | row for row in found]
        exponents = {arm: exponent(rows, arm) for arm in arms} if tokens > FITTED_FROM else {}
        protocol = timing.protocol(
            device, torch.float32, model="ViT-S attention module", batch=1,
            fitted_from=FITTED_FROM, command="python benchmarks/scaling.py",
        )  # fmt: skip
    result = {"protocol": protocol, "exponents": exponents, "rows": rows}
    harness.save(f"scaling-{device.type}", __file__, result)
    plot(rows, exponents, f"scaling-{device.type}.svg")
