"""Every operation on this device against its reference in float64 on the CPU, in each number format."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.gpu.sizes import Sizes
from sparsight.completions.linear import mapped, normalised
from sparsight.ops.attention import masked_attention, sparse_attention
from sparsight.ops.partition import kept_count, put, take, take_heads
from sparsight.ops.statistics import average_attention

KEEP, PREFIX = 1 / 8, 1
FORMATS = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def operations(sizes: Sizes) -> dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]]:
    """By name: the operation, and its reference, of q, k, v (b, h, n, d), tokens (b, n, c) and a table.

    The kept set is the reference's own, so that only arithmetic is compared.
    """
    b, heads, n, d = sizes.checked
    kept = kept_count(n, KEEP, PREFIX)
    generator = torch.Generator().manual_seed(1)
    score = torch.rand(b, n, generator=generator)
    order = score.argsort(1, descending=True)
    ranked = order[:, :kept]

    def full(q: Tensor, k: Tensor, v: Tensor, x: Tensor, table: Tensor) -> Tensor:
        return (q @ k.transpose(2, 3) * d**-0.5).softmax(3).mean((1, 2))

    return {
        "sparse attention": (
            lambda q, k, v, x, table: sparse_attention(q, k, v, ranked.to(q.device), kept, kept),
            lambda q, k, v, x, table: masked_attention(q, k, v, order.to(q.device), kept, kept),
        ),
        "average attention": (lambda q, k, v, x, table: average_attention(q, k), full),
        "linear map": (
            lambda q, k, v, x, table: mapped(normalised(x), table),
            lambda q, k, v, x, table: normalised(x) @ table[:-1] + table[-1],
        ),
        "take and put": (
            lambda q, k, v, x, table: put(x, ranked.to(x.device), 2 * take(x, ranked.to(x.device))),
            lambda q, k, v, x, table: _doubled(x, ranked),
        ),
        "take of heads": (
            lambda q, k, v, x, table: take_heads(k, ranked.to(k.device)),
            lambda q, k, v, x, table: k.gather(
                2, ranked.to(k.device)[:, None, :, None].expand(-1, heads, -1, d)
            ),
        ),
    }


def _doubled(x: Tensor, ranked: Tensor) -> Tensor:
    found = x.clone()
    for row, places in zip(found, ranked.to(x.device), strict=True):
        row[places] *= 2
    return found


def all_ops(sizes: Sizes, device: torch.device) -> list[dict[str, Any]]:
    """A row for each operation and number format: largest and mean error, relative to the mean size."""
    b, heads, n, d = sizes.checked
    generator, rows = torch.Generator().manual_seed(0), []
    shapes = [(b, heads, n, d)] * 3 + [(b, n, heads * d), (heads * d + 1, heads * d)]
    exact = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for kind, dtype in FORMATS.items():
        given = [x.to(dtype) for x in exact]
        torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
        try:
            for name, (fast, reference) in operations(sizes).items():
                row: dict[str, Any] = {"operation": name, "format": kind}
                try:
                    with torch.inference_mode():
                        found = fast(*(x.to(device) for x in given)).double().cpu()
                        wanted = reference(*(x.double() for x in given))
                    error = (found - wanted).abs() / wanted.abs().mean()
                    row |= {"largest": error.max().item(), "mean": error.mean().item()}
                except Exception as error:
                    row["hole"] = harness.reason(error)
                rows.append(row)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False
    return rows
