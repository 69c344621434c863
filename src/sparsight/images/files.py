"""Picture files as normalised tensors: a list of them, or a folder."""

from collections import Counter
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from sparsight.arguments import checked
from sparsight.data import Sides, size_of
from sparsight.errors import ImagesError
from sparsight.images.decode import decoded
from sparsight.images.folder import look_through
from sparsight.images.names import short_name, shown
from sparsight.images.wanted import normal_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageFiles:
    """Image files, resized to one resolution (height, width), or the side of a square, and normalised.

    There are as many channels as `mean` has values: three are RGB, one is grey, four are the bands of an
    RGBA file, none of them taken as transparency.
    """

    def __init__(
        self,
        paths: "Sequence[str | PathLike[str]]",
        resolution: Sides,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        self.paths, self.resolution = [Path(path) for path in paths], size_of(resolution)
        if min(self.resolution) < 1:
            raise ImagesError(f"resolution {resolution} is no height and width in pixels")
        self.mean, self.std = normal_of(mean, std)
        self.noted: dict[str, set[int]] = {}  # what was read otherwise than it stands -> which files

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> "Tensor":
        picture = decoded(self.paths[index], len(self.mean))
        for note in picture.notes:
            self.noted.setdefault(note, set()).add(index)
        return to_tensor(resized(picture.image, self.resolution), self.mean, self.std)

    def name_of(self, index: int) -> str:
        """The file's name."""
        return shown(self.paths[index].name)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was read otherwise than it stands in its file, with how many files."""
        return tuple(f"{len(places)} x {note}" for note, places in self.noted.items())


class ImageFolder(ImageFiles):
    """Every image file under a folder, in the order of their names.

    `resolution` is (height, width), or the side of a square, in pixels; `passed` counts what else was
    there, by reason.  Hidden files are passed over, and links to folders
    are followed, each folder once.
    """

    @checked
    def __init__(
        self,
        folder: "str | PathLike[str]",
        resolution: Sides,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        self.folder = Path(folder)
        found = look_through(self.folder)
        super().__init__(found.paths, resolution, mean, std)
        self.passed: Counter[str] = found.passed
        if not self.paths:
            there = ", ".join(f"{count} {reason}" for reason, count in found.passed.most_common(4))
            raise ImagesError(
                f"{short_name(self.folder)} holds no image that can be read"
                + (f", but {there}" if there else "")
            )

    def name_of(self, index: int) -> str:
        """The path inside the folder: two files may have the same name."""
        return shown(self.paths[index].relative_to(self.folder))


def resized(image: "Image", resolution: tuple[int, int]) -> "Image":
    """At `resolution` = (height, width); each band alone, so that a fourth is not taken as opacity."""
    from PIL import Image

    size = resolution[::-1]
    if image.size == size:
        return image
    if image.mode == "RGBA":
        bands = [resized(band, resolution) for band in image.split()]
        return Image.merge("RGBA", bands)
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def to_tensor(image: object, mean: Sequence[float], std: Sequence[float]) -> "Tensor":
    """A normalised (channels, height, width) tensor from a picture of bytes (PIL, or an array)."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    pixels = (pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)).float() / 255
    middle, spread = (pixels.new_tensor(values)[:, None, None] for values in (mean, std))
    return (pixels - middle) / spread
