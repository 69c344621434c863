"""The rows and columns of a picture's tokens: noted where its patches are cut, asked for in the layers.

A plain ViT flattens its tokens, and their number alone does not tell 32 x 128 from 64 x 64.  The
convolution that cuts the patches knows: its class is changed like that of any module of a plan, and
what it returns is noted.  Layers that read maps see their grid themselves.
"""

import threading
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.families.parts import Host
from sparsight.inplace import Change

if TYPE_CHECKING:
    from torch import nn

Sides = tuple[int, int]  # rows and columns


def cutter_of(model: Host) -> "nn.Module | None":
    """The convolution that cuts pictures into patches; None if the model takes patches as they are."""
    found = (m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    return next((m for m in found if m.stride != (1, 1)), None)


class _Seen:
    """The grid of one thread's last picture."""

    sides: Sides | None = None


class _Local(threading.local):
    """One for each thread, since a model may serve several at once; gone with the thread."""

    def __init__(self, every: "weakref.WeakSet[_Seen]") -> None:
        self.seen = _Seen()
        every.add(self.seen)


class Grid:
    """What the changed modules of a model share.  A copy of a model shares nothing with it."""

    def __init__(self) -> None:
        self.every: weakref.WeakSet[_Seen] = weakref.WeakSet()
        self.local = _Local(self.every)

    def __reduce__(self) -> tuple[type["Grid"], tuple[()]]:
        return Grid, ()

    def note(self, sides: Sides | None) -> None:
        """Of the pictures that are run now; None if they are told by nothing."""
        self.local.seen.sides = sides

    def note_maps(self, x: Tensor) -> None:
        """What a layer reads tells: maps (b, rows, columns, c) do, packed rows (n, c) have no grid."""
        if x.ndim != 3:
            self.note((x.shape[1], x.shape[2]) if x.ndim == 4 else None)

    def of(self, patches: int, layer: int) -> Sides:
        """Rows and columns of so many patch tokens; SparsightError that names a layer if unknown."""
        sides = self.local.seen.sides
        if sides is None and not torch.compiler.is_compiling():
            sides = self._of_others()
        # One row of patches is what towers cut that take all of them side by side.
        if sides is None or min(sides) < 2 or sides[0] * sides[1] != patches:
            known = "none was cut" if sides is None else f"the last one was cut into {tuple(sides)}"
            raise SparsightError(
                f"layer {layer} needs the rows and columns of its picture, and {patches} tokens came "
                f"where {known}: run the whole model on pictures of one size, or take another method"
            )
        return sides

    def _of_others(self) -> Sides | None:
        """Where a block is run again for gradient checkpointing, on a GPU in a thread of its own."""
        found = {seen.sides for seen in list(self.every)} - {None}
        return next(iter(found)) if len(found) == 1 else None


class CuttingPatches(Change):
    """A convolution that notes into how many rows and columns it cuts."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The host's result."""
        patches = self.dense(*args, **kwargs)
        self._sparsight.grid.note((patches.shape[-2], patches.shape[-1]))
        return patches
