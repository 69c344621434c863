"""Which tokens are kept, and moving tokens there and back (SVE, Eq. 3-6 and 8)."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsight.ops.traced import Number, looked_up

FRIENDLY = 64  # larger kept counts are whole multiples of this: attention kernels work in such tiles
WIDE = 768  # from so many queries on PyTorch's CPU kernel takes 256 at once instead of 64
# Who looks at every kept set, or puts another in its place, while an exported graph is compared.
WATCHERS: list[Callable[[Tensor], Tensor]] = []
PARTS = 1 << 20  # a fraction is taken as so many parts of this, for counts in whole numbers


def kept_count(tokens: Any, fraction: float, prefix: int, least: int = 0) -> Any:
    """How many of `tokens` a fraction keeps: static for a given count, prefix tokens always among them.

    All of them if there are fewer than `least`.  From 1.5 x 64 on the count is the nearest multiple of
    64, and 768 instead of 704: with the tiles of the attention kernels the tokens this adds cost next to
    nothing (measured in docs/speed.md).  A fraction of 1 keeps every token exactly.  Whole numbers
    throughout: what follows can be exported.
    """
    if fraction >= 1:
        return tokens
    if isinstance(tokens, torch.SymInt):
        return looked_up(tokens, lambda n: kept_count(n, fraction, prefix, least), prefix + 1)
    if tokens < least:
        return tokens
    count = (tokens * round(fraction * PARTS) + PARTS // 2) // PARTS
    if count >= FRIENDLY * 3 // 2:
        count = (count + FRIENDLY // 2) // FRIENDLY * FRIENDLY
    if count == WIDE - FRIENDLY:
        count = WIDE
    if count <= prefix:  # branches, not min and max: a compiler then keeps plain expressions of the size
        count = prefix + 1
    return count if count < tokens else tokens


def all_kept(count: Number, tokens: Number) -> bool:
    """Whether nothing is left out, as far as it is known before the run.

    In a graph of many sizes it is not: there all of few tokens go the way of some.
    """
    known = isinstance(count, int) and isinstance(tokens, int)
    return count is tokens or (known and count >= tokens)


def _raised(score: Float[Tensor, "b n"], prefix: int) -> Float[Tensor, "b n"]:
    """`score` with the prefix tokens above all others."""
    if not prefix:
        return score
    return torch.cat([score.new_full((score.shape[0], prefix), torch.inf), score[:, prefix:]], 1)


def top(score: Float[Tensor, "b n"], count: Number, prefix: int) -> Int[Tensor, "b k"]:
    """The `count` tokens of the highest score, highest first, prefix tokens before all others."""
    found = _raised(score, prefix).topk(count, dim=1).indices
    return WATCHERS[-1](found) if WATCHERS else found


def with_stride(
    score: Float[Tensor, "b n"], count: Any, prefix: int, every: int | None
) -> Int[Tensor, "b k"]:
    """`count` tokens: the top ones, and one in `every` of the others, evenly spread in their own order.

    Of p patch tokens m are wanted; the first t are the top ones, so that t + (p - t) // every = m.  None
    are spread if `every` is None.
    """
    if every is None:
        return top(score, count, prefix)
    patches, wanted = score.shape[1] - prefix, count - prefix
    # Of a symbol's sign nothing is known before the run.
    least = torch.sym_max(0, -((patches - wanted * every) // (every - 1)))
    best = top(score, prefix + least, prefix)
    rest = others(best, score.shape[1])[:, every - 1 :: every]
    return torch.cat([best, rest[:, : count - best.shape[1]]], 1)


def rank(score: Float[Tensor, "b n"], prefix: int) -> Int[Tensor, "b n"]:
    """index = argsort(m) (Eq. 3), highest first; prefix tokens before all others, in their own order."""
    return _raised(score, prefix).argsort(dim=1, descending=True, stable=True)


def inverse(order: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """The order that undoes `order`."""
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def others(chosen: Int[Tensor, "b k"], tokens: Number) -> Int[Tensor, "b r"]:
    """The tokens that are not among `chosen`, in their own order."""
    return _in_order(1 - _marked(chosen, tokens), tokens - chosen.shape[1])


def in_order(chosen: Int[Tensor, "b k"], tokens: Number) -> Int[Tensor, "b k"]:
    """`chosen` of so many tokens, in their own order."""
    return _in_order(_marked(chosen, tokens), chosen.shape[1])


def _marked(chosen: Int[Tensor, "b k"], tokens: Number) -> Int[Tensor, "b n"]:
    """1 for the tokens that are among `chosen`, 0 for the others."""
    none = torch.zeros(chosen.shape[0], tokens, dtype=torch.long, device=chosen.device)
    return none.scatter(1, chosen, torch.ones_like(chosen))


def _in_order(marked: Int[Tensor, "b n"], count: Any) -> Int[Tensor, "b k"]:
    """The `count` marked tokens of each picture: no sort, each is told its place by counting."""
    b, n = marked.shape
    places = torch.where(marked > 0, marked.cumsum(1) - 1, count)  # one place more, for all others
    numbers = torch.arange(n, device=marked.device).expand(b, n)
    return numbers.new_zeros(b, count + 1).scatter(1, places, numbers)[:, :count]


def _flat(order: Int[Tensor, "b k"], tokens: Any) -> Int[Tensor, " r"]:
    """The places of the tokens in all rows of a batch."""
    starts = torch.arange(order.shape[0], device=order.device)[:, None] * tokens
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
    b = order.shape[0]
    table = table.reshape((1,) * (4 - table.ndim) + tuple(table.shape)).expand(b, -1, -1, -1)
    index = (order[:, prefix:] - prefix)[:, None, :, None]
    return table.gather(2, index.expand(b, table.shape[1], -1, table.shape[3]))
