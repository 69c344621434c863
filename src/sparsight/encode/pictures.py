"""From the bytes of a picture file to what the model takes; the only place here that decodes."""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsight.errors import ImagesError
from sparsight.images import read_picture, to_tensor

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

RESAMPLING = "bicubic"
ORIENTATION = 0x0112  # EXIF; from 5 on the picture lies on its side


def size_of(data: bytes) -> tuple[int, int]:
    """Height and width of the upright picture, from its header; ImagesError if there is none."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
            lying = opened.getexif().get(ORIENTATION, 1) >= 5
    except Exception as error:  # Pillow has many kinds for many formats
        raise ImagesError(_told(error)) from None
    return (width, height) if lying else (height, width)


def decoded(
    data: bytes, size_px: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> tuple["Tensor", tuple[int, int]]:
    """The normalised (3, height, width) tensor at `size_px`, and the picture's own height and width.

    Raises ImagesError if it cannot be read.
    """
    from PIL.Image import Resampling

    image = upright(data)
    own = (image.height, image.width)
    if own != size_px:
        image = image.resize((size_px[1], size_px[0]), Resampling.BICUBIC, reducing_gap=3.0)
    return to_tensor(image, mean, std), own


def upright(data: bytes) -> "Image":
    """The picture in RGB with 8 bits; ImagesError if it cannot be read."""
    try:
        return read_picture(io.BytesIO(data))  # type: ignore[arg-type]
    except ImagesError as error:
        raise ImagesError(_told(error)) from None


def _told(error: Exception) -> str:
    """Why, without the object that stands for the file, whose address differs from run to run."""
    text = re.sub(r"<_io\.BytesIO[^>]*>", "it", " ".join(str(error).split()))
    return f"cannot be read: {text.removeprefix('cannot read it: ') or type(error).__name__}"
