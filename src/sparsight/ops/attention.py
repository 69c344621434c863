"""Sparse attention as two dense attention calls over a partition, and its masked reference (Eq. 7-9)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparsight.ops.partition import inverse, take_heads


def sparse_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h n d"],
    v: Float[Tensor, "b h n d"],
    global_queries: int,
    kept_keys: int,
) -> Float[Tensor, "b n h d"]:
    """O' = Attention(Q', K', V', mask) on tokens in ranked order, without a mask.

    The first `global_queries` (nq) queries see every key; every other query sees the first
    `kept_keys` (nk) keys.  That is two dense calls, which any fast attention runs at full speed.
    Heads come after tokens in the result, as the output projection wants them.  With all tokens kept it
    is the dense attention.
    """
    if k.shape[2] in (global_queries, kept_keys):
        return scaled_dot_product_attention(q, k, v).transpose(1, 2)
    everyone = scaled_dot_product_attention(q[:, :, :global_queries], k, v)
    rest = scaled_dot_product_attention(
        q[:, :, global_queries:], k[:, :, :kept_keys], v[:, :, :kept_keys]
    )
    return torch.cat([everyone.transpose(1, 2), rest.transpose(1, 2)], dim=1)


def masked_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h n d"],
    v: Float[Tensor, "b h n d"],
    order: Int[Tensor, "b n"],
    global_queries: int,
    kept_keys: int,
) -> Float[Tensor, "b n h d"]:
    """The same from Eq. 3-9 as they stand, on tokens in their own order: the readable reference.

    It builds the N x N mask of Eq. 9, so it is for checking on small inputs, not for use.
    """
    q, k, v = (take_heads(x, order) for x in (q, k, v))
    place = torch.arange(q.shape[2], device=q.device)
    seen = (place[:, None] < global_queries) | (place[None, :] < kept_keys)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    out = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v
    return take_heads(out, inverse(order)).transpose(1, 2)
