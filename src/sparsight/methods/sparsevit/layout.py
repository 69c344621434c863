"""What a map of one size needs to be cut into windows, worked out once."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsight.families.windows import Windows
from sparsight.ops.windows import window_table


@dataclass(frozen=True)
class Layout:
    """The windows of a map, and how they are masked."""

    shift: tuple[int, int]
    table: Tensor  # (w, l) numbers of tokens
    padded: bool
    masks: Tensor | None  # (4, l, l), the masks of the four corners of a shifted map
    kind: Tensor | None  # (w,), which of them each window has


@torch.no_grad()
def lay_out(
    block: Any, windows: Windows, x: Tensor, grid: tuple[int, int], size: tuple[int, int],
    shift: tuple[int, int],
) -> Layout:  # fmt: skip
    """For a map of `grid` in windows of `size`, on the device and of the dtype of the block's input."""
    table = window_table(grid, size, shift, windows.rolls_first).to(x.device)
    down, across = -(-grid[0] // size[0]), -(-grid[1] // size[1])
    is_padded = (down * size[0], across * size[1]) != grid
    if not any(shift):
        return Layout(shift, table, is_padded, None, None)
    # Tokens from opposite edges meet in the last row and column of windows, and nowhere else.
    corners = torch.tensor([0, across - 1, (down - 1) * across, down * across - 1], device=x.device)
    masks = windows.mask(block, (down * size[0], across * size[1]), x)
    if masks is None:
        return Layout(shift, table, is_padded, None, None)
    masks = masks.to(x).index_select(0, corners)
    is_last = [torch.arange(count, device=x.device) == count - 1 for count in (down, across)]
    kind = (2 * is_last[0].long()[:, None] + is_last[1].long()).view(-1)
    return Layout(shift, table, is_padded, masks, kind)
