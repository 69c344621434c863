"""The number of a class for each pixel: from grey, from a palette, or from colours by a table."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import LabelsError
from sparsight.tasks.labels import LabelFile
from sparsight.tasks.table import HOW, UNKNOWN, VOID, Table, packed

if TYPE_CHECKING:
    from PIL.Image import Image


def class_numbers(classes: int, void: int, table: Table | None = None) -> Callable[[LabelFile], NDArray]:
    """Reads a label file as class numbers 0 to `classes` - 1 and VOID; `void` is VOID too."""

    def read(file: LabelFile) -> NDArray:
        labels = numbers_in(file, table).astype(np.int64)
        labels = np.where(labels == void, VOID, labels)
        wrong = labels[(labels != VOID) & ((labels < 0) | (labels >= classes))]
        if wrong.size:
            raise LabelsError(not_a_class(str(file.path), int(wrong[0]), classes, void))
        return labels

    return read


def not_a_class(file: str, number: int, classes: int, void: int) -> str:
    """The beginning of what is said of a label out of range."""
    return (
        f"{file} has the label {number}, which is neither one of the classes 0 to {classes - 1} nor the "
        f"void label {void}"
    )


def numbers_in(file: LabelFile, table: Table | None = None) -> NDArray:
    """The numbers in a file, or what a table makes of them; of a palette, the places in it."""
    if file.lossy:
        raise LabelsError(
            f"{file.path} is saved as {file.lossy}, which changes numbers, so its labels are not those "
            "that were drawn: export them again as PNG"
        )
    if table is None:
        return one_band(file)
    values = packed(colours_of(file)) if table.colours else one_band(file)
    found = table.look_up(values)
    if (unknown := found == UNKNOWN).any():
        value = int(values[unknown][0])
        named = f"the colour #{value:06x}" if table.colours else f"the number {value}"
        raise LabelsError(
            f"{file.path} has {named} in {100 * unknown.mean():.2g} % of its pixels, which the table "
            "does not have: add it (with void, if it does not count)"
        )
    return found


def one_band(file: LabelFile) -> NDArray:
    """The one number of each pixel (height, width), in the file's own type."""
    image = file.image
    pixels = np.asarray(image)
    if image.mode in ("F", "CMYK", "YCbCr", "LAB", "HSV"):
        raise LabelsError(f"{file.path} has pixels of the kind {image.mode}: wanted are whole numbers")
    if image.mode == "PA":
        return pixels[..., 0]
    if pixels.ndim == 3:
        colours = opaque(file, pixels)
        if (colours != colours[..., :1]).any():
            raise LabelsError(
                f"{file.path} is in colour ({image.mode}); wanted is the number of a class for each "
                f"pixel, or a --table of what its colours mean: {HOW}"
            )
        pixels = colours[..., 0]
    pixels = pixels.astype(np.uint8) if pixels.dtype == bool else pixels
    return pixels // file.spread if file.spread > 1 else pixels


def opaque(file: LabelFile, pixels: NDArray) -> NDArray:
    """The colour bands alone; refused if there is a transparency that says something."""
    if file.image.getbands()[-1] != "A":
        return pixels
    if (pixels[..., -1] != pixels.flat[-1]).any():
        raise LabelsError(f"{file.path} is transparent in part: save its labels without transparency")
    return pixels[..., :-1]


def colours_of(file: LabelFile) -> NDArray:
    """Red, green and blue (height, width, 3) of a file of 8 bits."""
    image = file.image
    if image.mode in ("P", "PA"):
        places = np.asarray(image)
        return palette_of(image)[places if places.ndim == 2 else places[..., 0]]
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA"):
        raise LabelsError(f"{file.path} has pixels of the kind {image.mode}: wanted are RGB colours")
    pixels = np.asarray(image)
    if pixels.dtype == bool:
        pixels = 255 * pixels.astype(np.uint8)
    colours = opaque(file, pixels) if pixels.ndim == 3 else pixels[..., None]
    return np.broadcast_to(colours, (*colours.shape[:2], 3))


def palette_of(image: "Image") -> NDArray:
    """The palette (256, 3) of an image that has one; black where it ends early."""
    known = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    return np.concatenate([known, np.zeros((256 - len(known), 3), np.uint8)])
