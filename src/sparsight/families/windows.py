"""Blocks that attend within windows, and blocks that stand in several containers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any

from sparsight.families.parts import Host, Parts

if TYPE_CHECKING:
    from torch import Tensor

# By stage and unit, the layers.  A unit drops windows together: a block, or a regular and a shifted one.
Stages = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True)
class Windows:
    """How the blocks of a family cut their tokens into windows; functions take the block first.

    A stage is a run of blocks that see the same windows, and so can share a ranking of them: whatever
    pools, changes the width or sees all tokens ends it.  `result` makes what a block returns of tokens
    (b, n, c) and of the block's input, as (b, height, width, c) if it is a map.
    """

    stages: Callable[[Host], Stages]  # of a model
    size: Callable[[Host], tuple[int, int]]  # height and width of a window
    # block, normalised windows (w, l, c), masks (w, l, l) or None -> what its attention makes of them
    attend: Callable[[Host, "Tensor", "Tensor | None"], "Tensor"]
    # block, height and width of the grid -> by how many tokens the windows are shifted up and left
    shift: Callable[[Host, tuple[int, int]], tuple[int, int]] = lambda block, grid: (0, 0)
    rolls_first: bool = False  # the shift comes before padding to whole windows; else after it
    # block, height and width of the padded grid, its tokens -> (windows, l, l) of a shifted block
    mask: Callable[[Host, tuple[int, int], "Tensor"], "Tensor | None"] = lambda block, grid, x: None
    # of a block's input and arguments: height and width
    grid: Callable[["Tensor", dict[str, Any]], tuple[int, int]] = lambda x, host: (
        x.shape[1],
        x.shape[2],
    )
    result: Callable[[Host, "Tensor", "Tensor"], Any] = lambda block, tokens, x: tokens.view(x.shape)
    # While in here, a block's own forward does not change its settings.
    steady: Callable[[Host], AbstractContextManager[Any]] = nullcontext

    def layers(self, model: Host) -> tuple[int, ...]:
        """The layers that can drop windows."""
        return tuple(n for stage in self.stages(model) for unit in stage for n in unit)

    def reassemble(self, parts: Parts, block: Host, x: "Tensor", **host: Any) -> Any:
        """The block's own forward from its parts, in full: shift, padding, windows, and all back.

        `x` is as the family's `rows` has it.
        """
        from torch.nn.functional import pad

        (height, width), (tall, wide) = self.grid(x, host), self.size(block)
        rows = x.flatten(1, -2)
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
        mask = self.mask(block, (down * tall, across * wide), rows) if up or left else None
        if mask is not None:
            mask = mask.repeat(b, 1, 1)
        y = self.attend(block, windows, mask).view(cut.shape).transpose(2, 3).reshape(h.shape)
        if self.rolls_first:
            y = y[:, :height, :width].roll((up, left), (1, 2))
        else:
            y = y.roll((up, left), (1, 2))[:, :height, :width]
        tokens = parts.mlp(block, parts.residual(block, rows, y.flatten(1, 2)))
        return self.result(block, tokens, x)


def runs(blocks: Iterable[Host], kind: Callable[[Host], Any]) -> Stages:
    """Stages of single blocks: neighbours of one `kind`, which is None of a block that drops nothing."""
    found = groupby(enumerate(blocks), key=lambda row: kind(row[1]))
    return tuple(tuple((n,) for n, _ in rows) for key, rows in found if key is not None)


def pairs(depths: Iterable[int]) -> Stages:
    """Stages of so many blocks each, regular and shifted in turn."""
    return tuple(
        tuple((n, n + 1) for n in range(first, last, 2))
        for first, last in pairwise(accumulate(depths, initial=0))
    )


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
