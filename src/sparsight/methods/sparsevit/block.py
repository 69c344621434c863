"""A Swin block in which windows of small activations are skipped, in place of the dense one.

    x_w <- Block(x_w) for the windows w of highest score, and x_w as it is for all others

The whole block is skipped, attention and MLP.  Tokens are scored once a stage, on the input of its first
pruned block; from that, windows are ranked once for the regular and once for the shifted partition, and
later blocks take a prefix of the same ranking.  Scores and rankings travel beside the tokens, as an
attribute of the returned tensor.

The order of windows and everything else that depends on the size of the map alone is worked out once.
A host pads its map with zeros after the first norm, so places without a token are zero there, and
nothing is written back to them.
"""

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparsight.errors import SparsightError
from sparsight.methods.sparsevit.config import SparseViT, dropped_count
from sparsight.methods.sparsevit.score import magnitude, rank_windows
from sparsight.methods.wrapped import WrappedBlock
from sparsight.ops.windows import take_windows, window_table

CARRY = "_sparsight_windows"


@dataclass
class Carry:
    """What the first pruned block of a stage hands to the others, beside the tokens."""

    magnitudes: Tensor  # (b, n)
    orders: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # shift -> (b, w)


@dataclass(frozen=True)
class Layout:
    """What a map of one size needs, worked out once."""

    shift: tuple[int, int]
    table: Tensor  # (w, l) numbers of tokens
    padded: bool
    masks: Tensor | None  # (4, l, l), the masks of the four corners of a shifted map
    kind: Tensor | None  # (w,), which of them each window has


class WindowBlock(WrappedBlock):
    """Runs `original` on the strongest windows alone."""

    OWN: ClassVar = WrappedBlock.OWN | {"layout"}

    config: SparseViT

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self.layout: tuple[Any, Layout] | None = None  # of the last size, and what it was made for

    def forward(self, x: Tensor, *args: Any, **host: Any) -> Any:
        """`original(x, ...)` on the kept windows; dense where all are kept.

        Raises SparsightError if no window would be left, if attention maps are asked for, and when
        reentrant gradient checkpointing has lost the ranking of the stage.
        """
        host |= zip(self.arguments, args, strict=False)
        windows = self.family.windows
        assert windows is not None  # checked before the plan was applied
        layout = self._layout_of(x, windows.grid(x, host))
        count = len(layout.table)
        kept = count - dropped_count(count, self.config.by_pair[self.layer // 2])
        if kept == 0:
            raise SparsightError(self._too_few(count))
        if kept == count or x[0, ..., 0].numel() < self.config.min_tokens:
            with windows.steady(self.original):
                return self.original.forward(x, **host)
        if host.get("output_attentions") or self.family.wants_maps(self):
            raise SparsightError(
                f"layer {self.layer} is sparse and has no attention map: call without "
                "output_attentions, or restore the model first"
            )
        rows = x.flatten(1, -2)
        carry: Carry | None = getattr(x, CARRY, None)
        if carry is None and self._follows() and x.is_leaf and x.requires_grad:
            raise SparsightError(  # its recomputation detaches x, so the ranking would be another one
                f"layer {self.layer} shares the ranking of its stage, which gradient checkpointing with "
                "use_reentrant=True loses: choose use_reentrant=False"
            )
        carry = carry or Carry(magnitude(rows.detach()))
        if layout.shift not in carry.orders:
            carry.orders[layout.shift] = rank_windows(carry.magnitudes, layout.table)
        done = self._run(rows, layout, carry.orders[layout.shift][:, :kept])
        result = windows.result(done, x)
        setattr(result if isinstance(result, Tensor) else result[0], CARRY, carry)
        return result

    def _run(self, x: Tensor, layout: Layout, kept: Tensor) -> Tensor:
        """The block on the kept windows (b, k) of the tokens (b, n, c), and the others as they are."""
        parts, (b, n, c) = self.family.parts, x.shape
        everything, rows = take_windows(x, layout.table, kept)
        tokens = everything.index_select(0, rows).view(b, -1, c)
        h = parts.norm(self, tokens)
        if layout.padded:
            h = h * (rows < b * n).view(b, -1, 1)
        h = h.view(kept.numel(), -1, c)
        assert self.family.windows is not None
        seen = self.family.windows.bias(self)[None]
        if layout.masks is not None and layout.kind is not None:
            kinds = seen + layout.masks.to(seen.dtype)[:, None]
            seen = kinds.index_select(0, layout.kind.index_select(0, kept.reshape(-1)))
        out = scaled_dot_product_attention(*parts.qkv(self, h), attn_mask=seen).transpose(1, 2)
        y = parts.merge(self, out, h).view(b, -1, c)
        tokens = parts.mlp(self, parts.residual(self, tokens, y))
        everything.index_copy_(0, rows, tokens.view(-1, c))
        return everything[: b * n].view(b, n, c)

    def _layout_of(self, x: Tensor, grid: tuple[int, int]) -> Layout:
        """The layout of a map of `grid`, on the device of `x`; kept for the next call."""
        windows = self.family.windows
        assert windows is not None
        size, shift = windows.size(self), windows.shift(self, grid)
        if torch.compiler.is_compiling():  # it becomes constants of the graph
            return self._lay_out(x, grid, size, shift)
        key = (grid, size, shift, x.device)
        if self.layout is None or self.layout[0] != key:
            with torch.inference_mode(False):  # training may come after inference
                self.layout = key, self._lay_out(x, grid, size, shift)
        return self.layout[1]

    @torch.no_grad()
    def _lay_out(
        self, x: Tensor, grid: tuple[int, int], size: tuple[int, int], shift: tuple[int, int]
    ) -> Layout:
        windows = self.family.windows
        assert windows is not None
        table = window_table(grid, size, shift, windows.rolls_first).to(x.device)
        down, across = -(-grid[0] // size[0]), -(-grid[1] // size[1])
        is_padded = (down * size[0], across * size[1]) != grid
        if not any(shift):
            return Layout(shift, table, is_padded, None, None)
        # Tokens from opposite edges meet in the last row and column of windows, and nowhere else.
        corners = torch.tensor([0, across - 1, (down - 1) * across, down * across - 1], device=x.device)
        masks = windows.mask(self, (down * size[0], across * size[1]), x).index_select(0, corners)
        is_last = [torch.arange(count, device=x.device) == count - 1 for count in (down, across)]
        kind = (2 * is_last[0].long()[:, None] + is_last[1].long()).view(-1)
        return Layout(shift, table, is_padded, masks, kind)

    @property
    def stage(self) -> int:
        """The place of this block's stage."""
        return sum(end <= self.layer // 2 for end in self._ends()) - 1

    def _ends(self) -> list[int]:
        """Pairs before each stage, and in all."""
        return list(accumulate(map(len, self.config.by_stage), initial=0))

    def _follows(self) -> bool:
        """Whether an earlier block of the stage drops windows too."""
        first, pair = self._ends()[self.stage], self.layer // 2
        return self.layer % 2 == 1 or any(self.config.by_pair[first:pair])

    def _too_few(self, count: int) -> str:
        """The sentence for a map with so few windows that none would be left."""
        stage, sparsity = self.stage + 1, self.config.by_pair[self.layer // 2]
        return (
            f"stage {stage} has {count} window{'s' * (count > 1)} in a picture of this size, and "
            f"sparsity {sparsity} would leave none: it can drop at most {count - 1} of {count}; lower "
            "sparsity there, or give larger pictures"
        )
