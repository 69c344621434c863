"""Families whose every block attends within windows, and blocks that stand in several containers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsight.families.parts import Host, Parts

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """How the blocks of a family cut their tokens into windows; functions take the block first.

    `result` makes what a block returns of tokens (b, n, c) and of the block's input.
    """

    stages: Callable[[Host], tuple[int, ...]]  # of a model: the number of blocks in each stage
    size: Callable[[Host], tuple[int, int]]  # height and width of a window
    # block, height and width of the grid -> by how many tokens the windows are shifted up and left
    shift: Callable[[Host, tuple[int, int]], tuple[int, int]]
    rolls_first: bool  # the shift comes before padding to whole windows; else after it
    bias: Callable[[Host], "Tensor"]  # (heads, l, l) for the l tokens of a window
    # block, height and width of the padded grid, its tokens -> (windows, l, l) of a shifted block
    mask: Callable[[Host, tuple[int, int], "Tensor"], "Tensor"]
    grid: Callable[["Tensor", dict[str, Any]], tuple[int, int]]  # of a block's input and arguments
    result: Callable[["Tensor", "Tensor"], Any]
    # While in here, a block's own forward does not change its settings.
    steady: Callable[[Host], AbstractContextManager[Any]] = nullcontext

    def reassemble(self, parts: Parts, block: Host, x: "Tensor", **host: Any) -> Any:
        """The block's own forward from its parts, in full: shift, padding, windows, and all back."""
        from torch.nn.functional import pad, scaled_dot_product_attention

        (height, width), (tall, wide) = self.grid(x, host), self.size(block)
        rows, attn = x.flatten(1, -2), parts.attention(block)
        b, _, c = rows.shape
        up, left = self.shift(block, (height, width))
        padding = (0, 0, 0, -width % wide, 0, -height % tall)
        h = parts.norm(block, rows).view(b, height, width, c)
        if self.rolls_first:
            h = pad(h.roll((-up, -left), (1, 2)), padding)
        else:
            h = pad(h, padding).roll((-up, -left), (1, 2))
        down, across = h.shape[1] // tall, h.shape[2] // wide
        cut = h.view(b, down, tall, across, wide, c).transpose(2, 3)
        windows = cut.reshape(b * down * across, tall * wide, c)
        seen = self.bias(block)[None]
        if up or left:
            mask = self.mask(block, (down * tall, across * wide), rows)
            seen = seen + mask.repeat(b, 1, 1)[:, None]
        out = scaled_dot_product_attention(*parts.qkv(attn, windows), attn_mask=seen).transpose(1, 2)
        y = parts.merge(attn, out, windows).view(cut.shape).transpose(2, 3).reshape(h.shape)
        if self.rolls_first:
            y = y[:, :height, :width].roll((up, left), (1, 2))
        else:
            y = y.roll((up, left), (1, 2))[:, :height, :width]
        tokens = parts.mlp(block, parts.residual(block, rows, y.flatten(1, 2)))
        return self.result(tokens, x)


class Nested:
    """The blocks of several containers as one, in their order."""

    def __init__(self, containers: Sequence[Host]) -> None:
        self.places = [(container, n) for container in containers for n in range(len(container))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, layer: int) -> Host:
        container, place = self.places[layer]
        return container[place]

    def __setitem__(self, layer: int, block: Host) -> None:
        container, place = self.places[layer]
        container[place] = block

    def __iter__(self) -> Iterator[Host]:
        return (self[layer] for layer in range(len(self)))
