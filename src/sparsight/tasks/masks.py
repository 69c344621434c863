"""Masks of objects: white on black, the entries of a palette, or what a table says."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import LabelsError
from sparsight.tasks.labels import LabelFile
from sparsight.tasks.numbers import numbers_in, palette_of
from sparsight.tasks.table import HOW, VOID, Table

if TYPE_CHECKING:
    from PIL.Image import Image

BORDER = 255  # of a palette with objects: around them, in VOC's masks
WHITES = (1, 255, 65535)
COLOUR_NOISE = 60  # by how much lossy formats may part the channels of grey


def objects(table: Table | None = None) -> Callable[[LabelFile], NDArray]:
    """Reads the number of each pixel's object: 0 for none, VOID for what does not count.

    That is what the table makes of it, or its entry in a palette of colours, or 1 where more than half
    white.
    """

    def read(file: LabelFile) -> NDArray:
        if table is not None:
            return numbers_in(file, table).astype(np.int64)
        entries = entries_of(file)
        if entries is not None:
            return np.where(entries == BORDER, VOID, entries)
        grey, white = grey_of(file)
        return (2 * grey.astype(np.int64) > white).astype(np.int64)

    return read


def object_masks(table: Table | None = None) -> Callable[[LabelFile], NDArray]:
    """Reads 1 where there is an object, 0 elsewhere, and VOID."""
    read = objects(table)
    return lambda file: read(file).clip(VOID, 1)


def entries_of(file: LabelFile) -> NDArray | None:
    """The places (height, width) in a palette of more than black and white, else None."""
    if file.image.mode != "P":
        return None
    places = np.asarray(file.image).astype(np.int64)
    used = palette_of(file.image)[np.unique(places)]
    return None if ((used == 0) | (used == 255)).all() and (used == used[:, :1]).all() else places


def grey_of(file: LabelFile) -> tuple[NDArray, int]:
    """Grey levels (height, width) of a mask, and which of them is white."""
    image = file.image.convert("RGB") if file.image.mode in ("CMYK", "YCbCr", "LAB") else file.image
    if image.mode == "F":
        raise LabelsError(f"{file.path} has floating-point pixels: wanted is white on black")
    pixels = palette_of(image)[np.asarray(image)] if image.mode == "P" else np.asarray(image)
    if pixels.ndim == 3:
        pixels = _of_bands(file, image, pixels)
    pixels = pixels.astype(np.int64)
    if pixels.min(initial=0) < 0 or (top := pixels.max(initial=0)) > WHITES[-1]:
        raise LabelsError(f"{file.path} has numbers outside of 16 bits: wanted is white on black")
    return pixels, 255 if file.lossy else next(white for white in WHITES if top <= white)


def _of_bands(file: LabelFile, image: "Image", pixels: NDArray) -> NDArray:
    """The one band that says where the object is: grey, or the transparency if that alone does."""
    has_alpha = image.getbands()[-1] == "A"
    colours, alpha = (pixels[..., :-1], pixels[..., -1]) if has_alpha else (pixels, pixels[..., 0])
    if image.mode == "PA":
        colours = palette_of(image)[colours[..., 0]]
    if has_alpha and (alpha != alpha.flat[0]).any():
        said = (colours != colours[:1, :1]).any()
        if said and ((2 * colours.astype(np.int64) > 255) != (alpha > 127)[..., None]).any():
            raise LabelsError(
                f"{file.path} has colours and a transparency that differ: save the one that is the mask"
            )
        return alpha
    spread = colours.max(2).astype(np.int64) - colours.min(2)
    if spread.max(initial=0) > (COLOUR_NOISE if file.lossy else 0):
        raise LabelsError(
            f"{file.path} is in colour: wanted is white on black, or a --table of what its colours "
            f"mean: {HOW}"
        )
    return colours.astype(np.int64).sum(2) // colours.shape[2]
