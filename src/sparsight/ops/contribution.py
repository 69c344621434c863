"""|| attention x value x output projection || of every token, without a map of all pairs in memory.

With u_h = v[h, j] W_O[h] the squared norm of sum_h a_h u_h is a^T M a, where M[h, g] = u_h . u_g is the
same for all queries: H x H numbers of each token in place of its H x c values for every query.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sparsight.ops.statistics import average_attention

CHUNK = 64  # query rows at once


def contribution(
    q: Float[Tensor, "b h q d"], k: Float[Tensor, "b h n d"], v: Float[Tensor, "b h n e"],
    weight: Float[Tensor, "c g"],
) -> Float[Tensor, "b n"]:  # fmt: skip
    """Mean over queries of the norm; pass a sample of them.  Peak memory: b x h x 64 x n floats."""
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return _contribution(q, k, v, weight)
    return _streamed(q, k, v, weight)


@torch.library.custom_op("sparsight::contribution", mutates_args=())
def _contribution(q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """One opaque step for a compiler, which would unroll the loop, anew for every number of chunks."""
    return _streamed(q, k, v, weight)


@_contribution.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    return k.new_empty(k.shape[0], k.shape[2], dtype=torch.float32)


@torch.no_grad()  # a ranking has none
def _streamed(q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> Float[Tensor, "b n"]:
    queries, n = q.shape[2], k.shape[2]
    products = head_products(v, weight)
    scaled, keys = q * q.shape[3] ** -0.5, k.transpose(2, 3)
    total = torch.zeros(k.shape[0], n, dtype=torch.float32, device=k.device)
    for rows in (scaled,) if torch.compiler.is_exporting() else scaled.split(CHUNK, dim=2):
        a = F.softmax(rows @ keys, dim=-1, dtype=torch.float32).permute(0, 3, 1, 2)  # (b, n, h, q)
        squares = ((products @ a) * a).sum(2)
        total += squares.clamp_min(0).sqrt().sum(2)
    return total / queries


def contribution_bound(
    q: Float[Tensor, "b h q d"], k: Float[Tensor, "b h n d"], v: Float[Tensor, "b h n e"],
    weight: Float[Tensor, "c g"],
) -> Float[Tensor, "b n"]:  # fmt: skip
    """The sum over heads of average attention times || v W_O ||: never less than `contribution`."""
    b, heads, n, e = v.shape
    each = average_attention(q.flatten(0, 1)[:, None], k.flatten(0, 1)[:, None]).view(b, heads, n)
    own = weight.float().unflatten(1, (heads, e)).permute(1, 2, 0)  # (h, e, c)
    squares = ((v.float() @ (own @ own.transpose(1, 2))) * v.float()).sum(3)
    return (each * squares.clamp_min(0).sqrt()).sum(1)


def head_products(v: Float[Tensor, "b h n e"], weight: Float[Tensor, "c g"]) -> Float[Tensor, "b n h h"]:
    """M: the products of what the projection makes of each two heads of a token, in float32."""
    b, heads, n, e = v.shape
    whole = weight.float()
    gram, rows = whole.T @ whole, v.float().transpose(1, 2)  # (b, n, h, e)
    found = [
        ((v[:, h].float() @ gram[h * e : (h + 1) * e]).view(b, n, heads, e) * rows).sum(3)
        for h in range(heads)
    ]
    return torch.stack(found, 2)
