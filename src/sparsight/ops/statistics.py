"""Attention statistics without an N x N map in memory (SVE, Sections 3.1 and 3.2).

Symbols of the paper and names here: M = the full attention map, never built; m = `average`;
s = `sparsity_indicator`; c = `c`; top-1/8 recovery (Fig. 5) = `recall`.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsight.ops.traced import most

# Query rows per step: on a CPU as many as keep the scores near its cache, on a GPU more in one launch.
CHUNK_CPU, CHUNK_GPU = 64, 1024
GOLDEN_32 = 2_654_435_769  # the golden ratio's fraction times 2^32


def average_attention(q: Float[Tensor, "b h q d"], k: Float[Tensor, "b h n d"]) -> Float[Tensor, "b n"]:
    """m: the mean over queries and heads of softmax(q k^T / sqrt(d)), exact, streamed over queries.

    Pass a sample of the queries for an estimate.  Peak memory is one chunk: b x h x 64 x n floats.
    """
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return _average_attention(q, k)
    return _streamed(q, k)


@torch.library.custom_op("sparsight::average_attention", mutates_args=())
def _average_attention(q: Tensor, k: Tensor) -> Tensor:
    """One opaque step for a compiler, which would unroll the loop, anew for every number of chunks."""
    return _streamed(q, k)


@_average_attention.register_fake
def _(q: Tensor, k: Tensor) -> Tensor:
    return k.new_empty(k.shape[0], k.shape[2], dtype=torch.float32)


@torch.no_grad()  # a ranking has none
def _streamed(q: Float[Tensor, "b h q d"], k: Float[Tensor, "b h n d"]) -> Float[Tensor, "b n"]:
    """Scores of one chunk of queries after another, the softmax of each row, and the sum over rows.

    Keys are laid out once as the product reads them, in the working dtype; rows are normalised and
    summed in float32, in buffers that are used again, where a CPU's allocator may fetch new memory
    each time.
    """
    (b, h, queries, d), n = q.shape, k.shape[2]
    scaled = (q * d**-0.5).reshape(b * h, queries, d)
    keys = k.reshape(b * h, n, d).transpose(1, 2).contiguous()
    chunk = CHUNK_CPU if q.device.type == "cpu" else CHUNK_GPU
    if torch.compiler.is_exporting() or queries <= chunk:  # a graph has no loop over chunks
        total = F.softmax(scaled @ keys, dim=-1, dtype=torch.float32).sum(1)
        return total.view(b, h, n).sum(1) / (h * queries)
    scores, ones = k.new_empty(b * h * chunk * n), k.new_ones(b * h, 1, chunk, dtype=torch.float32)
    weights = scores if k.dtype == torch.float32 else torch.empty_like(scores, dtype=torch.float32)
    total = k.new_zeros(b * h, 1, n, dtype=torch.float32)
    for rows in scaled.split(chunk, dim=1):
        shape = (b * h, rows.shape[1], n)
        found, even = (x[: math.prod(shape)].view(shape) for x in (scores, weights))
        torch.bmm(rows, keys, out=found)
        torch.softmax(found, dim=-1, dtype=torch.float32, out=even)
        total.baddbmm_(ones[:, :, : rows.shape[1]], even)
    return total.view(b, h, n).sum(1) / (h * queries)


def sparsity_indicator(m: Float[Tensor, "b n"], c: float = 10.0) -> Float[Tensor, " b"]:
    """s (Eq. 2): the share of tokens whose average attention is below max(m) / c."""
    return (m < m.amax(dim=1, keepdim=True) / c).float().mean(dim=1)


def top_set(score: Float[Tensor, "b n"], count: int) -> Bool[Tensor, "b n"]:
    """True for the `count` tokens of the highest score."""
    chosen = torch.zeros_like(score, dtype=torch.bool)
    return chosen.scatter_(1, score.topk(count, dim=1).indices, True)


def top_share(m: Float[Tensor, "b n"], fraction: float) -> Float[Tensor, " b"]:
    """The share of all attention that goes to the top `fraction` of the tokens."""
    return m.topk(max(1, round(fraction * m.shape[1])), dim=1).values.sum(1) / m.sum(1)


def recall(
    score: Float[Tensor, "b n"], m: Float[Tensor, "b n"], kept: float, true: float
) -> Float[Tensor, " b"]:
    """The share of m's top `true` fraction that is in the top `kept` fraction of `score`."""
    count = max(1, round(true * m.shape[1]))
    wanted = top_set(m, count)
    found = top_set(score, max(1, round(kept * m.shape[1])))
    return (wanted & found).sum(1) / count


def overlap(maps: Float[Tensor, "l n"], fraction: float) -> Float[Tensor, "l l"]:
    """For each pair of layers of one image, the share of the top `fraction` that both have."""
    count = max(1, round(fraction * maps.shape[1]))
    sets = top_set(maps, count).float()
    return sets @ sets.T / count


def lattice_sample(
    tokens: Any, prefix: int, every: int, device: torch.device | str = "cpu"
) -> Int[Tensor, " q"]:
    """Indices of about one query in `every` patch tokens, spread evenly over the image.

    A stride in flattened order that divides the grid's width would sample single columns.  So each
    run of `every` consecutive tokens gives one, at an offset that follows Weyl's sequence frac(i^2 g),
    g the golden ratio.  The rows of the lattice so made are sheared by ever other amounts: even over
    rows and columns for any width, which is unknown here (linear offsets, frac(i g), line up with some
    widths).  A function of the count alone, hence static.
    """
    patches = tokens - prefix
    if patches <= every:
        return torch.arange(prefix, tokens, device=device)
    if torch.compiler.is_exporting():  # engines may have no 64 binary digits
        runs = patches // every
        return torch.tensor([prefix + _in_run(i, every) for i in range(most(runs))], device=device)[
            :runs
        ]
    return prefix + _in_run(torch.arange(patches // every, device=device), every)


def _in_run(i: Any, every: int) -> Any:
    offset = (i * i * GOLDEN_32) % (1 << 32)  # frac(i^2 g) in 32 binary digits
    return i * every + (offset * every >> 32)
