"""Which tokens are kept, and moving tokens there and back (SVE, Eq. 3-6 and 8)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

FRIENDLY = 64  # larger kept counts are whole multiples of this: attention kernels work in such tiles
WIDE = 768  # from so many queries on PyTorch's CPU kernel takes 256 at once instead of 64
PARTS = 1 << 20  # a fraction is taken as so many parts of this, for counts in whole numbers


def kept_count(tokens: int, fraction: float, prefix: int) -> int:
    """How many of `tokens` a fraction keeps: static for a given count, prefix tokens always among them.

    From 1.5 x 64 on the count is the nearest multiple of 64, and 768 instead of 704: with the tiles of
    the attention kernels the tokens this adds cost next to nothing (measured in docs/speed.md).  A
    fraction of 1 keeps every token exactly.  Whole numbers throughout: what follows can be exported.
    """
    if fraction >= 1:
        return tokens
    count = (tokens * round(fraction * PARTS) + PARTS // 2) // PARTS
    if count >= FRIENDLY * 3 // 2:
        count = (count + FRIENDLY // 2) // FRIENDLY * FRIENDLY
    if count == WIDE - FRIENDLY:
        count = WIDE
    if count <= prefix:  # branches, not min and max: a compiler then keeps plain expressions of the size
        count = prefix + 1
    return count if count < tokens else tokens


def _raised(score: Float[Tensor, "b n"], prefix: int) -> Float[Tensor, "b n"]:
    """`score` with the prefix tokens above all others."""
    if not prefix:
        return score
    return torch.cat([score.new_full((len(score), prefix), torch.inf), score[:, prefix:]], 1)


def top(score: Float[Tensor, "b n"], count: int, prefix: int) -> Int[Tensor, "b k"]:
    """The `count` tokens of the highest score, highest first, prefix tokens before all others."""
    return _raised(score, prefix).topk(count, dim=1).indices


def rank(score: Float[Tensor, "b n"], prefix: int) -> Int[Tensor, "b n"]:
    """index = argsort(m) (Eq. 3), highest first; prefix tokens before all others, in their own order."""
    return _raised(score, prefix).argsort(dim=1, descending=True, stable=True)


def inverse(order: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """The order that undoes `order`."""
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def others(chosen: Int[Tensor, "b k"], tokens: int) -> Int[Tensor, "b r"]:
    """The tokens that are not among `chosen`, in their own order."""
    there = torch.zeros(len(chosen), tokens, dtype=torch.int8, device=chosen.device)
    there.scatter_(1, chosen, 1)
    return there.argsort(dim=1, stable=True)[:, : tokens - chosen.shape[1]]


def _flat(order: Int[Tensor, "b k"], tokens: int) -> Int[Tensor, " r"]:
    """The places of the tokens in all rows of a batch."""
    starts = torch.arange(len(order), device=order.device)[:, None] * tokens
    return (order + starts).reshape(-1)


def take(x: Float[Tensor, "b n c"], order: Int[Tensor, "b k"]) -> Float[Tensor, "b k c"]:
    """Tokens of `x` in the given order: out[b, i] = x[b, order[b, i]]; some of them, or some often.

    One `index_select` over all rows: on a CPU three times as fast as an expanded `gather`.
    """
    b, n, c = x.shape
    return x.reshape(b * n, c).index_select(0, _flat(order, n)).view(b, order.shape[1], c)


def put(
    x: Float[Tensor, "b n c"], order: Int[Tensor, "b k"], rows: Float[Tensor, "b k c"]
) -> Float[Tensor, "b n c"]:
    """A copy of `x` with `rows` in the given places: out[b, order[b, i]] = rows[b, i]."""
    b, n, c = x.shape
    return x.reshape(b * n, c).index_copy(0, _flat(order, n), rows.reshape(-1, c)).view(b, n, c)


def put_(
    x: Float[Tensor, "b n c"], order: Int[Tensor, "b k"], rows: Float[Tensor, "b k c"]
) -> Float[Tensor, "b n c"]:
    """`put` into `x` itself, which is contiguous and nobody else's: no copy of all tokens."""
    b, n, c = x.shape
    x.view(b * n, c).index_copy_(0, _flat(order, n), rows.reshape(-1, c))
    return x


def take_heads(x: Float[Tensor, "b h n d"], order: Int[Tensor, "b k"]) -> Float[Tensor, "b h k d"]:
    """`take` for queries, keys or values; rows of a joint projection are read where they stand."""
    b, h, n, d = x.shape
    rows = x.transpose(1, 2).flatten(0, 1).index_select(0, _flat(order, n))
    return rows.view(b, order.shape[1], h, d).transpose(1, 2)


def take_positions(
    table: Float[Tensor, "..."], order: Int[Tensor, "b n"], prefix: int
) -> Float[Tensor, "b h q d"]:
    """A per-patch table (rotary embedding) in the order of each image's tokens, or of some of them.

    `table` is (p, d), (heads, p, d) or (batch, heads or 1, p, d), without rows for the prefix tokens.
    """
    b = len(order)
    table = table.reshape((1,) * (4 - table.ndim) + tuple(table.shape)).expand(b, -1, -1, -1)
    index = (order[:, prefix:] - prefix)[:, None, :, None]
    return table.gather(2, index.expand(b, table.shape[1], -1, table.shape[3]))
