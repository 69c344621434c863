"""From the bytes of a picture file to what the model takes; the only place here that decodes."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsight.errors import ImagesError
from sparsight.images import decoded, to_tensor
from sparsight.images.decode import ORIENTATION
from sparsight.images.files import resized
from sparsight.images.folder import kinds

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

RESAMPLING = "bicubic"
LYING = 5  # orientations from this on have height and width exchanged
PREFIX = "cannot read bytes: "  # what is said of any bytes; which picture they are stands beside it


def size_of(data: bytes) -> tuple[int, int]:
    """Height and width of the upright picture, from its header; ImagesError if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=kinds()[0]) as opened:
            width, height = opened.size
            turn = opened.getexif().get(ORIENTATION, 1)
    except Exception:  # of damaged headers and metadata; decoding knows more, and says why it cannot
        image = upright(data)
        return image.height, image.width
    return (width, height) if isinstance(turn, int) and turn >= LYING else (height, width)


def upright(data: bytes, bands: int = 3) -> "Image":
    """The picture with 8 bits; ImagesError if it cannot be read."""
    try:
        return decoded(data, bands).image
    except ImagesError as error:
        raise ImagesError(str(error).removeprefix(PREFIX)) from None


def as_tensor(
    data: bytes, size_px: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> tuple["Tensor", tuple[int, int]]:
    """The normalised (channels, height, width) tensor at `size_px`, and the picture's own size.

    Raises ImagesError if it cannot be read.
    """
    image = upright(data, len(mean))
    return to_tensor(resized(image, size_px), mean, std), (image.height, image.width)
