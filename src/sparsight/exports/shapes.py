"""Which pictures an exported file takes: a range of heights, widths and batch sizes, or one of each."""

from typing import Any, Literal, Self

from pydantic import model_validator

from sparsight.data import Count, Data, Size
from sparsight.errors import ImagesError
from sparsight.images import check_resolution

Batch = Count | Literal["dynamic"]
INPUT = "pixel_values"


class Shapes(Data):
    """Pictures (batch, channels, height, width), each side between those of `smallest` and `largest`."""

    smallest: Size
    largest: Size
    patch_px: tuple[int, int]  # sides are multiples of this
    channels: int = 3
    batch: Batch = 1

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for size in (self.smallest, self.largest):
            check_resolution(size, self.patch_px)
        if any(a > b for a, b in zip(self.smallest, self.largest, strict=True)):
            raise ValueError(f"the range of sizes begins at {self.smallest} and ends at {self.largest}")
        return self

    @property
    def is_dynamic(self) -> bool:
        """Whether height or width may vary."""
        return self.smallest != self.largest

    @property
    def text(self) -> str:
        """As a message has it."""
        small, large = (f"{height}x{width}" for height, width in (self.smallest, self.largest))
        return f"{small} to {large}" if self.is_dynamic else small

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches."""
        return size[0] // self.patch_px[0], size[1] // self.patch_px[1]

    def check(self, shape: tuple[int, ...], name: str) -> None:
        """Refuse pictures of a `shape` that the file called `name` does not take."""
        if len(shape) != 4 or shape[1] != self.channels:
            raise ImagesError(
                f"{name} takes pictures of shape (batch, {self.channels}, height, width), not {shape}"
            )
        size = (shape[2], shape[3])
        check_resolution(size, self.patch_px)
        pairs = zip(self.smallest, size, self.largest, strict=True)
        if not all(small <= side <= large for small, side, large in pairs):
            raise ImagesError(
                f"{name} takes pictures of {self.text}, not {size[0]}x{size[1]}: resize them, or export "
                "for another range"
            )
        if self.batch not in ("dynamic", shape[0]):
            raise ImagesError(
                f"{name} takes {self.batch} pictures at once, not {shape[0]}: export batch='dynamic'"
            )

    def example(self) -> tuple[int, int, int, int]:
        """A shape to trace with, in the midst of the range; no side equals another by chance."""
        sides = []
        for small, large, patch in zip(self.smallest, self.largest, self.patch_px, strict=True):
            steps = (large - small) // patch
            sides.append(small + patch * (steps * 2 // 3))
        if self.is_dynamic and sides[0] == sides[1] and sides[1] > self.smallest[1]:
            sides[1] -= self.patch_px[1]
        return (2 if self.batch == "dynamic" else self.batch, self.channels, sides[0], sides[1])

    def dynamic(self) -> dict[str, dict[int, Any]]:
        """The axes that vary, as `torch.export` takes them; {} if none does."""
        from torch.export import Dim

        axes: dict[int, Any] = {0: Dim.DYNAMIC} if self.batch == "dynamic" else {}
        for axis, name in ((2, "rows"), (3, "columns")):
            patch, own = self.patch_px[axis - 2], (self.smallest[axis - 2], self.largest[axis - 2])
            if own[0] != own[1]:
                axes[axis] = patch * Dim(name, min=own[0] // patch, max=own[1] // patch)
        return {INPUT: axes} if axes else {}
