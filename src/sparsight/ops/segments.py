"""Masks that only say which tokens are of one picture: split into those pictures, which need no mask.

Padded rows and packed pictures reach attention as a mask of N x N whose rows each show one run of keys.
Told apart by reading it, once for all layers that are given the same mask.
"""

import threading
import weakref
from typing import NamedTuple

import torch
from torch import Tensor

FORBIDDEN = -1e4  # an additive mask with less than this hides a key: e^-10000 is 0 in any dtype
ROWS = 1024  # of a mask, that are read at once


class Segment(NamedTuple):
    """Tokens `start` to `stop` of a picture, which see each other alone.

    Those from there to `last` see them too, and nobody sees them: padding.
    """

    row: int | None  # of the batch; None: the same in all rows
    start: int
    stop: int
    last: int


class _Last(threading.local):
    """The mask that this thread read last: all layers of a pass are given the same."""

    mask: "weakref.ref[Tensor] | None" = None
    version = -1
    found: tuple[Segment, ...] | None = None


_last = _Last()


def segments_of(mask: Tensor, batch: int, tokens: int) -> tuple[Segment, ...] | None:
    """The pictures that `mask` keeps apart, of what scaled_dot_product_attention takes; None: it does
    more than that (a bias, a causal mask, a mask for each head, gaps).

    Rows that see nothing are in no segment.  Reads the mask's values, on a GPU with a synchronisation.
    """
    if _last.mask is not None and _last.mask() is mask and _last.version == mask._version:
        return _last.found
    _last.found = _read(mask, batch, tokens)
    _last.mask, _last.version = weakref.ref(mask), mask._version
    return _last.found


@torch.no_grad()
def _read(mask: Tensor, batch: int, tokens: int) -> tuple[Segment, ...] | None:
    mask = mask[(None,) * (4 - mask.ndim)]
    if (mask.stride(1) != 0 and mask.shape[1] != 1) or mask.shape[3] != tokens:
        return None
    found: list[Segment] = []
    for row, one in enumerate(mask[:, 0]):
        runs = _runs(one, tokens)
        if runs is None:
            return None
        found += [Segment(None if len(mask) == 1 else row, *run) for run in runs]
    return tuple(found) if len(mask) in (1, batch) else None


def _runs(mask: Tensor, tokens: int) -> list[tuple[int, int, int]] | None:
    """Of one row of the batch (queries or 1, tokens): (start, stop, last) of each segment."""
    starts, counts = [], []
    for part in mask.split(ROWS):
        allowed = part if part.dtype == torch.bool else part == 0
        if part.dtype != torch.bool and not (allowed | (part <= FORBIDDEN)).all():
            return None
        seen = allowed.to(torch.uint8)
        start, count = seen.argmax(1), allowed.sum(1)
        stop = tokens - seen.flip(1).argmax(1)
        if not ((stop - start == count) | (count == 0)).all():
            return None
        starts.append(start)
        counts.append(count)
    pairs = torch.stack([torch.cat(starts), torch.cat(counts)], 1)
    if len(pairs) == 1:
        pairs = pairs.expand(tokens, 2)
    runs, lengths = torch.unique_consecutive(pairs, dim=0, return_counts=True)
    found, first = [], 0
    for (start, count), length in zip(runs.tolist(), lengths.tolist(), strict=True):
        if count:
            if start != first or count > length:
                return None
            found.append((start, start + count, first + length))
        first += length
    return found
