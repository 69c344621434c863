"""Which tokens of a grid attend to which, from their places alone: windows, Z-order stripes, a lattice.

Places are those of patch tokens, row by row.  A pattern is a set that all see, and groups that see
themselves too; groups of one size are rows of one tensor, so that each size is one call of dense
attention, and odd grids need neither padding nor a mask.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

FOUR = 4  # Z-order goes through squares of 2 x 2


class Pattern(NamedTuple):
    """Every patch is in `shared` or in exactly one group."""

    shared: Int[Tensor, " s"]  # seen by all; they see one another alone
    groups: list[Int[Tensor, "g m"]]  # each sees itself and `shared`


def windows(rows: int, columns: int, size: int, device: torch.device | str = "cpu") -> Pattern:
    """Squares of `size` x `size` from the first corner on; those at the far edges are what is left."""
    places = torch.arange(rows * columns, device=device).view(rows, columns)
    groups = []
    for height in _cuts(rows, size):
        for width in _cuts(columns, size):
            part = places[height[0] : height[1], width[0] : width[1]]
            high, wide = min(size, len(part)), min(size, part.shape[1])
            squares = part.unflatten(1, (-1, wide)).unflatten(0, (-1, high)).transpose(1, 2)
            groups.append(squares.reshape(-1, high * wide))
    return Pattern(places.new_zeros(0), groups)


def stripes(
    rows: int, columns: int, block: int, keep: float, device: torch.device | str = "cpu"
) -> Pattern:
    """SparseSAM's static order: one of each four in Z-order, then the next of each; in blocks.

    The first floor(keep x blocks) blocks are shared, so with a quarter those are every other token of
    every other row; each further block sees itself too.
    """
    curve = z_order(rows, columns, device)
    order = torch.cat([curve[first::FOUR] for first in range(FOUR)])
    shared = int(keep * -(-len(order) // block)) * block
    rest = order[shared:]
    whole = len(rest) // block * block
    groups = [part for part in (rest[:whole].view(-1, block), rest[None, whole:]) if part.numel()]
    return Pattern(order[:shared], groups)


def z_order(rows: int, columns: int, device: torch.device | str = "cpu") -> Int[Tensor, " n"]:
    """Places along the Z-curve (Morton, 1966): by the bits of row and column in turn."""
    return _interleaved(rows, columns, device, bits=range(_bits(rows, columns))).argsort(stable=True)


def lattice_ranks(rows: int, columns: int, device: torch.device | str = "cpu") -> Int[Tensor, " n"]:
    """For each place a number: those with the lowest are a lattice, however many are taken.

    The bits of the Z-curve, lowest first (van der Corput in two dimensions): of a grid that powers of
    two divide, the first quarter is every other token of every other row, and so on downwards.
    """
    bits = _bits(rows, columns)
    return _interleaved(rows, columns, device, bits=range(bits - 1, -1, -1))


def _bits(rows: int, columns: int) -> int:
    return max(1, (max(rows, columns) - 1).bit_length())


def _interleaved(rows: int, columns: int, device: torch.device | str, bits: range) -> Int[Tensor, " n"]:
    """Numbers whose digits are those of row and column in turn, the lowest digit the first of `bits`."""
    row, column = (torch.arange(side, device=device) for side in (rows, columns))
    found = row.new_zeros(rows, columns)
    for place, bit in enumerate(bits):
        found = found + ((column >> bit & 1) << 2 * place)[None, :]
        found = found + ((row >> bit & 1) << 2 * place + 1)[:, None]
    return found.flatten()


def _cuts(side: int, size: int) -> list[tuple[int, int]]:
    """From where to where windows are whole, and where the last is not."""
    whole = side // size * size
    return [(a, b) for a, b in pairwise((0, whole, side)) if a < b]


def grouped_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h n d"],
    v: Float[Tensor, "b h n e"],
    prefix: int,
    pattern: Pattern,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "b n h e"]:
    """Attention by a pattern; prefix tokens see all and are seen by all.  Heads after tokens, as SVE's.

    One call of dense attention for the prefix, one for the shared tokens, one for each size of group.
    """
    more: dict[str, Any] = {"dropout_p": dropout, "scale": scale}
    b, first = q.shape[0], torch.arange(prefix, device=q.device)
    seen = torch.cat([first, pattern.shared + prefix])  # by everyone
    rows = [x.transpose(1, 2) for x in (q, k, v)]  # a token's heads stand together
    everyone = [x[:, None].index_select(2, seen) for x in rows[1:]]  # (b, 1, s, h, d)
    parts, order = [], []
    if prefix:
        parts.append(scaled_dot_product_attention(q[:, :, :prefix], k, v, **more).transpose(1, 2))
        order.append(first)
    if len(pattern.shared):
        order.append(pattern.shared + prefix)
        asking = rows[0].index_select(1, order[-1]).transpose(1, 2)
        keys, values = (x[:, 0].transpose(1, 2) for x in everyone)
        parts.append(scaled_dot_product_attention(asking, keys, values, **more).transpose(1, 2))
    for places in pattern.groups:
        order.append(places.flatten() + prefix)
        own = [x.index_select(1, order[-1]).unflatten(1, places.shape) for x in rows]  # (b, g, m, h, d)
        keys, values = (
            torch.cat([common.expand(-1, len(places), -1, -1, -1), x], 2)
            for common, x in zip(everyone, own[1:], strict=True)
        )
        asking, keys, values = (x.flatten(0, 1).transpose(1, 2) for x in (own[0], keys, values))
        found = scaled_dot_product_attention(asking, keys, values, **more).transpose(1, 2)
        parts.append(found.reshape(b, -1, *found.shape[2:]))
    return torch.cat(parts, 1).index_select(1, torch.cat(order).argsort())
