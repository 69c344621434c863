"""Sparse attention without a sort or a mask, and its masked reference (SVE, Eq. 3-9)."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparsight.ops.partition import inverse, put, put_, take_heads


def sparse_attention(
    q: Float[Tensor, "b h m d"],
    k: Float[Tensor, "b h n d"],
    v: Float[Tensor, "b h n e"],
    top: Int[Tensor, "b t"],
    global_queries: int,
    kept_keys: int,
    scale: float | None = None,
    dropout: float = 0.0,
    bias: Callable[[Tensor | None, Tensor | None], Tensor] | None = None,
) -> Float[Tensor, "b m h e"]:
    """O = Attention(Q, K, V, mask) in the tokens' own order, from the ranked `top` alone.

        out = sdpa(q, k[top], v[top])          every query sees the first `kept_keys` (nk) of `top`
        out[top] = sdpa(q[top], k, v)          the first `global_queries` (nq) of `top` see every key

    Two dense calls, which any fast attention runs at full speed; nothing is permuted.  Heads come after
    tokens in the result, as the output projection wants them.  There may be more queries than keys:
    padding after the tokens, which sees the kept keys.  `bias(queries, keys)` is what is added to their
    products (b, h, queries, keys), for those places or, of None, for all.
    """
    keys, queries = top[:, :kept_keys], top[:, :global_queries]
    more: dict[str, Any] = {"dropout_p": dropout, "scale": scale}
    to_kept, of_global = (None, None) if bias is None else (bias(None, keys), bias(queries, None))
    out = scaled_dot_product_attention(q, take_heads(k, keys), take_heads(v, keys), to_kept, **more)
    seeing = scaled_dot_product_attention(take_heads(q, queries), k, v, of_global, **more)
    rows, seeing = (x.transpose(1, 2).flatten(2) for x in (out, seeing))
    written = put if rows.requires_grad else put_  # a gradient needs what the first call returned
    return written(rows, queries, seeing).unflatten(2, out.shape[1::2])


def masked_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h n d"],
    v: Float[Tensor, "b h n d"],
    order: Int[Tensor, "b n"],
    global_queries: int,
    kept_keys: int,
) -> Float[Tensor, "b n h d"]:
    """The same from Eq. 3-9 as they stand: the readable reference.

    It builds the N x N mask of Eq. 9, so it is for checking on small inputs, not for use.
    """
    q, k, v = (take_heads(x, order) for x in (q, k, v))
    place = torch.arange(q.shape[2], device=q.device)
    seen = (place[:, None] < global_queries) | (place[None, :] < kept_keys)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    out = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v
    return take_heads(out, inverse(order)).transpose(1, 2)
