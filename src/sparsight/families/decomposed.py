"""A bias of rows and columns (SAM 1), caught before its host adds it up for every pair of tokens.

    b[i, j] = r[i, row of j] + c[i, column of j]         with r (n, height), c (n, width) of the queries

So it can be gathered for some of the queries or keys.  Li et al., MViTv2, 2022; its hosts write it as a
sum of (..., height, 1) and (..., 1, width).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils._pytree import tree_map_only

from sparsight.ops.partition import take_heads

SUMS = (torch.Tensor.add, torch.Tensor.__add__, torch.add)  # what `+` of two tensors is


class Decomposed:
    """The sum of `rows` (b, height, width, height) and `columns` (b, height, width, width), not made.

    Stands for a tensor of `shape`.  Whatever is done with it but to reshape it is done with the sum.
    """

    def __init__(self, rows: Tensor, columns: Tensor, shape: tuple[int, ...]) -> None:
        self.rows, self.columns, self.shape = rows, columns, torch.Size(shape)

    def reshape(self, *shape: Any) -> Any:
        """The same, where each row is still of one query and all keys."""
        asked = torch.empty(self.shape, device="meta").reshape(*shape).shape  # with -1 told
        tokens = self.rows.shape[1:3].numel()
        if asked[-2:] == (tokens, tokens):
            return Decomposed(self.rows, self.columns, asked)
        return self.sum().reshape(asked)

    view = reshape

    def reshape_as(self, other: Tensor) -> Any:
        """As `reshape`."""
        return self.reshape(*other.shape)

    def sum(self) -> Tensor:
        """The tensor that it stands for."""
        return (self.rows[..., None] + self.columns[..., None, :]).reshape(self.shape)

    def tables(self) -> tuple[Tensor, Tensor]:
        """`rows` (b, heads, n, height) and `columns` (b, heads, n, width); the shape has the heads."""
        rows, columns = (x.reshape(*self.shape[:-1], x.shape[-1]) for x in (self.rows, self.columns))
        return rows, columns

    def between(self, queries: Tensor | None, keys: Tensor | None) -> Tensor:
        """(b, heads, q, k): the bias of some queries (b, q) or of all, to some keys (b, k) or to all."""
        rows, columns = self.tables()
        if queries is not None:
            rows, columns = take_heads(rows, queries), take_heads(columns, queries)
        if keys is None:
            return (rows[..., None] + columns[..., None, :]).flatten(-2)
        shape = (*rows.shape[:3], keys.shape[1])
        places = (
            x[:, None, None].expand(shape) for x in (keys // columns.shape[3], keys % columns.shape[3])
        )
        return rows.gather(3, next(places)) + columns.gather(3, next(places))

    def widened(self, q: Tensor, k: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Queries and keys (b, heads, n, d + height + width), as many as tokens, with the bias in them.

            s q'.k' = s q.k + b[i, j]
            q' = [q, r / s, c / s],  k' = [k, 1 at the row of j, 1 at the column of j]

        What ranks them needs to know no more.
        """
        rows, columns = self.tables()
        more = torch.cat([rows, columns], -1).to(q.dtype) / scale
        height, width = rows.shape[3], columns.shape[3]
        place = torch.arange(height * width, device=k.device)
        at = torch.cat([one_hot(place // width, height), one_hot(place % width, width)], 1).to(k.dtype)
        return torch.cat([q, more], -1), torch.cat([k, at.expand(*k.shape[:-1], -1)], -1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sum(), name)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Of the sum."""
        args, kwargs = tree_map_only(Decomposed, Decomposed.sum, (args, kwargs or {}))
        return func(*args, **kwargs)


def caught_sum(func: Any, args: Any) -> Decomposed | None:
    """The sum that a host is about to make, if it is of rows and columns of the queries' own map."""
    if func not in SUMS or len(args) != 2 or not all(isinstance(x, Tensor) for x in args):
        return None
    rows, columns = args
    if rows.ndim != 5 or columns.ndim != 5 or rows.shape[:3] != columns.shape[:3]:
        return None
    height, width = rows.shape[1:3]
    if rows.shape[3:] != (height, 1) or columns.shape[3:] != (1, width):
        return None
    shape = (len(rows), height, width, height, width)
    return Decomposed(rows[..., 0], columns[..., 0, :], shape)
