"""How each token interacts with the others in one attention layer, without an N x N map in memory.

SPOT's compact attention descriptor, of the softmax map A of one head, cls at 0, over P patch tokens:
    cls_out = A[0, t]      cls_in = A[t, 0]
    mean and variance of row t and of column t of the patch-to-patch part
Names here: `WITH_CLS`.  Rows of A sum to one, so without a cls token a row's mean is a constant and the
cls features do not exist: `WITHOUT_CLS` has the row's reach instead, exp(entropy) / P, the share of the
patches that even attention of this entropy sees.

All are in units of even attention, 1 / P, so that they do not depend on the number of tokens; spreads
are standard deviations.  Results are (b, P, heads, features) in float32, none of them negative.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from sparsight.ops.statistics import CHUNK_CPU, CHUNK_GPU, lattice_sample

WITH_CLS = ("cls_out", "cls_in", "row_mean", "row_spread", "column_mean", "column_spread")
WITHOUT_CLS = ("row_reach", "row_spread", "column_mean", "column_spread")


def statistic_names(prefix: int) -> tuple[str, ...]:
    """What is known of each token of a model with so many prefix tokens; cls is the first of them."""
    return WITH_CLS if prefix else WITHOUT_CLS


def token_statistics(
    q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h n d"], prefix: int
) -> Float[Tensor, "b p h f"]:
    """Exact, streamed over queries.  Peak memory is one chunk: b x h x 64 x n floats."""
    chunk = CHUNK_CPU if q.device.type == "cpu" else CHUNK_GPU
    scaled, keys = q * q.shape[-1] ** -0.5, k.transpose(-2, -1)
    patches = q.shape[2] - prefix
    total = torch.zeros(*q.shape[:2], patches, dtype=torch.float32, device=q.device)
    squares = torch.zeros_like(total)
    rows = []
    for queries in scaled[:, :, prefix:].split(chunk, dim=2):
        a = F.softmax(queries @ keys, dim=-1, dtype=torch.float32)
        rows.append(_of_rows(a, prefix, patches))
        total += a[..., prefix:].sum(2)
        squares += vector_norm(a[..., prefix:], dim=2).square()
    columns = _moments(total, squares.sqrt(), patches, patches)
    return _together(scaled, keys, torch.cat(rows, 2), columns, prefix)


def sampled_statistics(
    q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h n d"], prefix: int, sample: int
) -> Float[Tensor, "b p h f"]:
    """An estimate from about `sample` patch queries, for the columns, and as many keys, for the rows.

    The cost grows with n, not with its square.  What cls attends to is exact.  A row's normaliser is
    made of its prefix keys and the sampled patch keys, each of which stands for patches / sample.
    """
    scaled, keys = q * q.shape[-1] ** -0.5, k.transpose(-2, -1)
    patches = q.shape[2] - prefix
    chosen = lattice_sample(q.shape[2], prefix, max(1, patches // sample), q.device)
    seen = torch.cat([torch.arange(prefix, device=q.device), chosen])
    scores = (scaled[:, :, prefix:] @ keys.index_select(3, seen)).float()
    scores[..., :prefix] -= math.log(patches / len(chosen))
    rows = _of_rows(F.softmax(scores, dim=-1), prefix, patches)

    a = F.softmax(scaled.index_select(2, chosen) @ keys, dim=-1, dtype=torch.float32)[..., prefix:]
    columns = _moments(a.sum(2), vector_norm(a, dim=2), len(chosen), patches)
    return _together(scaled, keys, rows, columns, prefix)


def _of_rows(a: Float[Tensor, "b h q s"], prefix: int, patches: int) -> Float[Tensor, "b h q f"]:
    """Statistics of rows of A, whose patch columns may stand for several patches each."""
    weights, columns = a[..., prefix:], a.shape[-1] - prefix
    moments = _moments(weights.sum(-1), vector_norm(weights, dim=-1), columns, columns)
    if prefix:
        return torch.cat([a[..., :1] * patches, moments], -1)
    x = weights * columns
    return torch.stack([torch.exp(-torch.special.xlogy(x, x).mean(-1)), moments[..., 1]], -1)


def _moments(total: Tensor, norm: Tensor, count: int, unit: int) -> Float[Tensor, "b h p 2"]:
    """Mean and standard deviation of `count` values, in units of 1 / `unit`, from sum and norm."""
    mean = total * (unit / count)
    square = norm.square() * (unit * unit / count)
    return torch.stack([mean, (square - mean.square()).clamp_min(0).sqrt()], -1)


def _together(
    scaled: Tensor, keys: Tensor, rows: Tensor, columns: Tensor, prefix: int
) -> Float[Tensor, "b p h f"]:
    """All statistics in the order of their names; what cls attends to is one more row of A."""
    parts = [rows, columns]
    if prefix:
        patches = keys.shape[3] - prefix
        a = F.softmax(scaled[:, :, :1] @ keys, dim=-1, dtype=torch.float32)
        parts.insert(0, a[:, :, 0, prefix:, None] * patches)
    return torch.cat(parts, -1).transpose(1, 2)
