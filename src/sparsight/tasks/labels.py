"""Pictures with labels: reading both so that each pixel keeps its label, or refusing.

A picture that its camera stored turned (EXIF) is shown upright.  Its labels may carry the same mark,
may have been drawn on the stored pixels, or on the upright picture; where their sizes do not tell, the
pair is refused, because labels that do not turn with their picture would look like a bad model.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsight.errors import ImagesError, LabelsError, SparsightError
from sparsight.images import ImageFiles
from sparsight.tasks.base import Request
from sparsight.tasks.pairs import Pair

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION, UPRIGHT, QUARTER_TURNS = 0x0112, 1, (5, 6, 7, 8)
LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF")  # formats that change numbers
SPREAD = {"L;2": 85, "L;4": 17}  # Pillow spreads grey of so few bits over 0 to 255

Found = TypeVar("Found")


class LabelFile(NamedTuple):
    """What a label file holds, upright, and what Pillow's image of it does not tell."""

    path: Path
    image: "Image"
    lossy: str = ""  # the name of its format, if that changes numbers
    spread: int = 1  # by what Pillow has multiplied them


class Sample(NamedTuple):
    """One picture with its truth."""

    picture: Tensor  # (3, height, width), normalised, at the resolution asked for
    labels: Tensor  # (rows, columns) at the labels' own size: class numbers, or VOID


class LabelledFiles:
    """Pairs of files; `read` makes the label map of a label file."""

    def __init__(
        self, pairs: Sequence[Pair], request: Request, read: Callable[[LabelFile], NDArray]
    ) -> None:
        self.pairs, self.read = pairs, read
        self.pictures = ImageFiles(
            [p.image for p in pairs], request.resolution, request.mean, request.std
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        picture = self.pictures[index]
        return Sample(picture, torch.from_numpy(self.labels(index, self.read)))

    def labels(self, index: int, read: Callable[[LabelFile], Found]) -> Found:
        """What `read` finds in the label file of pair `index`; ImagesError if it cannot be read."""
        from PIL import Image

        pair = self.pairs[index]
        try:
            # From open files: by a path Pillow maps TIFFs into memory, and scrambles turned ones.
            with (
                pair.image.open("rb") as of_picture, pair.labels.open("rb") as of_labels,
                Image.open(of_picture) as picture, Image.open(of_labels) as labels,
            ):  # fmt: skip
                return read(_label_file(pair, picture, labels))
        except SparsightError:
            raise
        except Exception as error:  # whatever the reader of some format meets in damaged bytes
            raise ImagesError(f"cannot read {pair.labels} and its picture: {error}") from None


def _label_file(pair: Pair, picture: "Image", labels: "Image") -> LabelFile:
    """The labels as the picture is shown; refused if they are of another size."""
    tile = getattr(labels, "tile", None)
    kind, frames = str(tile[0][3]) if tile else "", getattr(labels, "n_frames", 1)
    lossy = labels.format or ""
    if "jpeg" in str(labels.info.get("compression", "")):
        lossy = "JPEG in TIFF"
    elif not (lossy in LOSSY or (lossy == "WEBP" and _is_lossy_webp(pair.labels))):
        lossy = ""
    if frames > 1:
        raise LabelsError(f"{pair.labels} holds {frames} pictures: wanted is one label map")
    if kind.startswith(("RGB;16", "RGBA;16", "LA;16")):
        raise LabelsError(f"{pair.labels} has colours of 16 bits: save its labels in grey")
    labels.load()
    turn = _orientation(picture)
    width, height = picture.size[::-1] if turn in QUARTER_TURNS else picture.size
    upright = _upright(pair, labels, turn, picture.size)
    if upright.size != (width, height):
        raise LabelsError(
            f"{pair.labels} is {upright.size[0]} x {upright.size[1]} pixels and its picture "
            f"{width} x {height}: give both one size, labels by the nearest pixel"
        )
    return LabelFile(pair.labels, upright, lossy, SPREAD.get(kind, 1))


def _is_lossy_webp(path: Path) -> bool:
    """Whether a WebP file has a lossy bitstream ("VP8 "; lossless is "VP8L")."""
    data = path.read_bytes()
    place = 12  # after "RIFF", the length and "WEBP"
    while place + 8 <= len(data):
        if data[place : place + 4] in (b"VP8 ", b"VP8L"):
            return data[place : place + 4] == b"VP8 "
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + length + length % 2
    return True


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
