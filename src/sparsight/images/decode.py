"""One picture file to pixels: upright, with 8 bits, and left out with a reason where that cannot be."""

import io
import warnings
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sparsight.errors import ImagesError
from sparsight.images.folder import kinds
from sparsight.images.names import short_name

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112  # of EXIF
PNG_START, PNG_PIXELS = b"\x89PNG\r\n\x1a\n", (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
DEPTHS = (8, 10, 12)  # bits that cameras and scanners store in 16


@dataclass(frozen=True)
class Picture:
    """Pixels with 8 bits, and what a reader should know of how they came about."""

    image: "Image"  # in RGB; in L or RGBA where one or four bands are wanted
    notes: tuple[str, ...] = ()


def read_picture(path: Path) -> "Image":
    """The picture upright (EXIF) in RGB with 8 bits; transparency is dropped, not blended.

    Raises ImagesError if the file cannot be read.
    """
    return decoded(path).image


def decoded(source: "str | PathLike[str] | bytes", bands: int = 3) -> Picture:
    """As `read_picture`, of a file or of its bytes, with notes; `bands` may be 1 and 4 as well.

    The kind of a file is told by its content.  Raises ImagesError, "cannot read NAME: REASON (MORE)".
    """
    from PIL import Image

    name = "bytes" if isinstance(source, bytes) else short_name(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, and of sizes that are still read
            with _stream(source) as stream, _opened(stream) as opened:
                several = opened.format != "MPO" and getattr(opened, "is_animated", False)
                notes = ("several pages or frames, of which the first was read",) if several else ()
                opened.load()
                found = prepared(opened, bands)
                return Picture(found.image, (*notes, *found.notes))
    except Image.DecompressionBombError:
        reason = "too large (more pixels than Pillow's limit: cut it into tiles)"
    except Image.UnidentifiedImageError:
        reason = "no picture of a known kind" if _has_content(source) else "an empty file"
    except FileNotFoundError:
        reason = "there is no such file"
    except PermissionError:
        reason = "no permission"
    except MemoryError:
        reason = "too large for the memory (cut it into tiles)"
    except ImagesError as error:
        reason = str(error)
    except Exception as error:  # of damaged files, Pillow's readers raise nearly everything
        told = " ".join(str(error).split())[:100]
        reason = f"{'truncated' if 'truncated' in told.lower() else 'damaged'} ({told})"
    raise ImagesError(f"cannot read {name}: {reason}")


def prepared(image: "Image", bands: int = 3) -> Picture:
    """An open picture in the form of `decoded`; ImagesError says why if it has none."""
    narrow, notes = _eight_bits(_upright(image))
    return Picture(_in_bands(narrow, bands), notes)


def _opened(stream: BinaryIO) -> "Image":
    """The file as Pillow opens it; a PNG whose metadata are damaged without them."""
    from PIL import Image

    try:
        return Image.open(stream, formats=kinds()[0])
    except Image.UnidentifiedImageError:
        stream.seek(0)
        content = stream.read()
        if not content.startswith(PNG_START):
            raise
    return Image.open(io.BytesIO(_bare_png(content)), formats=("PNG",))


def _stream(source: "str | PathLike[str] | bytes") -> BinaryIO:
    """What Pillow reads from.  By a path it maps TIFFs into memory, and scrambles turned ones."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not Path(source).is_file():  # a pipe would never end
        raise FileNotFoundError(source)
    return Path(source).open("rb")


def _bare_png(content: bytes) -> bytes:
    """A PNG of the chunks that make pixels: Pillow refuses a file for a damaged comment."""
    kept, place = [PNG_START], len(PNG_START)
    while place + 8 <= len(content):
        length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        end = place + 12 + length
        if kind in PNG_PIXELS:
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


def _has_content(source: "str | PathLike[str] | bytes") -> bool:
    try:
        return bool(source if isinstance(source, bytes) else Path(source).stat().st_size)
    except OSError:
        return True


def _upright(image: "Image") -> "Image":
    """Turned as EXIF says; with damaged EXIF as it is."""
    from PIL.Image import Transpose as T

    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged metadata say nothing of the pixels
        return image
    turns = {
        2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_270,
        7: T.TRANSVERSE, 8: T.ROTATE_90,
    }  # fmt: skip
    method = turns.get(turn) if isinstance(turn, int) else None
    return image if method is None else image.transpose(method)


def _eight_bits(image: "Image") -> tuple["Image", tuple[str, ...]]:
    """Grey of more bits scaled to 8; Pillow's own conversion would turn all above 255 white."""
    import numpy as np
    from PIL import Image

    if image.mode == "F":
        grey = np.asarray(image)
        low, high = float(grey.min()), float(grey.max())
        if not (low >= 0 and high <= 1):  # also if one of them is NaN
            raise ImagesError("its values are floating-point numbers outside 0 to 1")
        return Image.fromarray((grey * 255 + 0.5).astype(np.uint8)), ()
    if not image.mode.startswith("I"):
        return image, ()
    grey = np.asarray(image).astype(np.int64)
    highest = int(grey.max())
    if grey.min() < 0 or highest > 65535:
        raise ImagesError("its values do not fit into 16 bits")
    bits = next((depth for depth in DEPTHS if highest < 1 << depth), 16)
    note = (f"16-bit files whose values need {bits} bits, read as such",) if 0 < highest < 4096 else ()
    return Image.fromarray((grey * 255 // ((1 << bits) - 1)).astype(np.uint8)), note


def _in_bands(image: "Image", bands: int) -> "Image":
    """In RGB; as grey, or with a fourth band beside RGB, where a model takes as many."""
    if bands == 3:
        if image.mode == "La":
            image = image.convert("LA")
        return image.convert("RGB")
    if bands == 1:
        return image.convert("L")
    if bands != len(image.getbands()) or image.mode != "RGBA":
        raise ImagesError(f"its bands are {'+'.join(image.getbands())}, and the model takes {bands}")
    return image
