"""Pictures with labels: reading both so that each pixel keeps its label, or refusing.

A picture that its camera stored turned (EXIF) is shown upright.  Its labels may carry the same mark,
may have been drawn on the stored pixels, or on the upright picture; where their sizes do not tell, the
pair is refused, because labels that do not turn with their picture would look like a bad model.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsight.errors import ImagesError, LabelsError
from sparsight.images import ImageFiles
from sparsight.tasks.base import Request
from sparsight.tasks.layouts import Pair

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION, UPRIGHT, QUARTER_TURNS = 0x0112, 1, (5, 6, 7, 8)
VOID = -1  # of a label map, whatever number the files have for it


class Sample(NamedTuple):
    """One picture with its truth."""

    picture: Tensor  # (3, height, width), normalised, at the resolution asked for
    labels: Tensor  # (rows, columns) at the labels' own size: class numbers, or VOID


class LabelledFiles:
    """Pairs of files; `read` makes the label map of one file's image."""

    def __init__(
        self, pairs: Sequence[Pair], request: Request, read: "Callable[[Pair, Image], NDArray]"
    ) -> None:
        self.pairs, self.read_labels = pairs, read
        self.pictures = ImageFiles(
            [p.image for p in pairs], request.resolution, request.mean, request.std
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        picture = self.pictures[index]
        return Sample(picture, torch.from_numpy(_read(self.pairs[index], self.read_labels)))


def class_numbers(classes: int, void: int) -> "Callable[[Pair, Image], NDArray]":
    """Reads a file with the number of a class for each pixel, grey or palette; `void` becomes VOID."""

    def read(pair: Pair, image: "Image") -> NDArray:
        if len(image.getbands()) > 1:
            raise LabelsError(
                f"{pair.labels} is a picture in colour ({image.mode}); wanted is the number of a class "
                "for each pixel, in grey or with a palette"
            )
        labels = np.asarray(image).astype(np.int64)
        wrong = labels[(labels != void) & ((labels < 0) | (labels >= classes))]
        if wrong.size:
            raise LabelsError(
                f"{pair.labels} has the label {wrong[0]}, which is neither one of the classes 0 to "
                f"{classes - 1} nor the void label {void}: set --classes and --void"
            )
        return np.where(labels == void, VOID, labels)

    return read


def objects(pair: Pair, image: "Image") -> NDArray:
    """The number of each pixel's object, 0 for none: its palette entry, or 1 if more than half white.

    A reader for `LabelledFiles`; it has no need of `pair`.
    """
    if image.mode == "P":
        return np.asarray(image).astype(np.int64)
    grey = np.asarray(image.convert("L") if len(image.getbands()) > 1 else image).astype(np.int64)
    white = next(top for top in (1, 255, 65535) if grey.max(initial=0) <= top)
    return (2 * grey > white).astype(np.int64)


def object_mask(pair: Pair, image: "Image") -> NDArray:
    """1 where there is an object, 0 elsewhere."""
    return (objects(pair, image) > 0).astype(np.int64)


def _read(pair: Pair, read: "Callable[[Pair, Image], NDArray]") -> NDArray:
    from PIL import Image

    try:
        with Image.open(pair.image) as picture, Image.open(pair.labels) as labels:
            labels.load()
            turn = _orientation(picture)
            width, height = picture.size[::-1] if turn in QUARTER_TURNS else picture.size
            upright = _upright(pair, labels, turn, picture.size)
            if upright.size != (width, height):
                raise LabelsError(
                    f"{pair.labels} is {upright.size[0]} x {upright.size[1]} pixels and its picture "
                    f"{width} x {height}: the two do not belong together"
                )
            return read(pair, upright)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImagesError(f"cannot read {pair.labels}: {error}") from None


def _upright(pair: Pair, labels: "Image", turn: int, stored: tuple[int, int]) -> "Image":
    """The labels as the picture is shown, which was stored with EXIF orientation `turn`."""
    from PIL import ImageOps

    if turn == UPRIGHT or _orientation(labels) != UPRIGHT:
        return ImageOps.exif_transpose(labels)
    sizes_tell = turn in QUARTER_TURNS and stored[0] != stored[1]
    if not sizes_tell:
        raise LabelsError(
            f"{pair.image} is stored turned (EXIF orientation {turn}) and nothing says whether "
            f"{pair.labels} is too: save the picture upright"
        )
    if labels.size == stored:
        labels.getexif()[ORIENTATION] = turn
    return ImageOps.exif_transpose(labels)


def _orientation(image: "Image") -> int:
    return image.getexif().get(ORIENTATION, UPRIGHT)
