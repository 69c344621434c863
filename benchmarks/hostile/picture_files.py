"""Picture files: every format and mode, damage, orientation, sizes and names, alone and in a folder.

Known: the pixels that were written.  What is lossless and whole comes back exactly, a lossy format
nearly; what is damaged comes back at its size or is refused.
"""

import io
import random
from pathlib import Path

import numpy as np
from benchmarks.hostile.judge import Case, files
from benchmarks.hostile.small import noise
from PIL import Image

import sparsight

FORMATS = {  # ending -> (Pillow's name, modes it writes, whether exactly)
    ".png": ("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"), True),
    ".bmp": ("BMP", ("1", "L", "P", "RGB"), True),
    ".tif": ("TIFF", ("1", "L", "P", "RGB", "RGBA", "I;16", "CMYK", "F", "I", "LAB", "YCbCr"), True),
    ".tiff": ("TIFF", ("L", "RGB"), True),
    ".ppm": ("PPM", ("1", "L", "RGB"), True),
    ".webp": ("WEBP", ("RGB", "RGBA"), False),
    ".jpg": ("JPEG", ("L", "RGB", "CMYK"), False),
    ".jpeg": ("JPEG", ("RGB",), False),
    ".JPG": ("JPEG", ("RGB", "1"), False),
    ".gif": ("GIF", ("L", "P", "RGB"), True),
    ".tga": ("TGA", ("L", "RGB", "RGBA"), True),
}
READ = (".png", ".bmp", ".tif", ".tiff", ".ppm", ".webp", ".jpg", ".jpeg", ".JPG")  # by any edition
PLAIN = ("1", "L", "RGB")  # whose RGB is beyond doubt
NAMES = (
    "a", "ä ö", "a b", "-rf", "a\nb", "'\"", "%s", "[red]x[red]", "x" * 200, "名", "e\u0301", ".hidden",
    "._a", "a.b.c", "$HOME", "*", "a\\b", "con", "\udce9", "\u202eabc", "0", " ",
)  # fmt: skip
DAMAGE = (
    "truncated",
    "flipped",
    "empty",
    "other bytes",
    "text",
    "appended",
    "another's head",
    "zeros",
    "doubled",
)
SIDES = (1, 2, 3, 5, 8, 16, 17, 31, 64, 100)


def make(rng: random.Random, place: Path) -> Case:
    """A folder with one picture that is odd, and perhaps whole ones beside it."""
    ending = rng.choice(list(FORMATS))
    kind, modes, exact = FORMATS[ending]
    mode = rng.choice(modes)
    height, width = rng.choice(SIDES), rng.choice(SIDES)
    orientation = (
        rng.choice((1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9))
        if kind in ("JPEG", "TIFF", "PNG", "WEBP")
        else 1
    )
    damage = rng.choice(DAMAGE) if rng.random() < 0.45 else ""
    name = rng.choice(NAMES) if rng.random() < 0.4 else "a"
    shown, data = written(rng, kind, mode, height, width, orientation)
    what = f"{kind} {mode} {height}x{width}, orientation {orientation}, {damage or 'whole'}"
    what += f", {ascii(name)[:30]}"
    if data is None:
        what, data, shown, damage = f"{what}: not written by Pillow", b"", None, "empty"
    path = place / "pictures" / f"{name}{ending}"
    path.parent.mkdir()
    path.write_bytes(damaged(rng, data, damage))
    beside = rng.random() < 0.3
    if beside:
        Image.fromarray(noise(rng, 4, 4)).save(path.parent / "zz.png")
    size = shown.shape[:2] if shown is not None else (height, width)

    def call() -> object:
        folder = sparsight.ImageFolder(path.parent, size, (0.0,) * 3, (1.0,) * 3)
        order = sorted(range(len(folder)), key=lambda n: folder.paths[n] != path)  # the odd one first
        return [folder[n] for n in order]

    def flaw(found: object) -> str:
        assert isinstance(found, list)
        if len(found) > 1 + beside:
            return f"{len(found)} pictures of {1 + beside} files"
        if any(tuple(t.shape) != (3, *size) or not bool(t.isfinite().all()) for t in found):
            return "a picture of another size, or not finite"
        if shown is None or damage or len(found) < 1 + beside:
            return ""
        given = (255 * found[0]).permute(1, 2, 0).numpy()
        return unlike(given, shown, exact)

    taken = (
        ending in READ and name[0] != "." and mode in PLAIN and not damage and orientation in range(1, 9)
    )
    return Case(what, call, flaw, "work" if taken and data else "", lambda: files(place))


def written(
    rng: random.Random, kind: str, mode: str, height: int, width: int, orientation: int
) -> tuple[np.ndarray | None, bytes | None]:
    """RGB as it must be shown (None: not known), and the file's bytes (None: there is none)."""
    image, shown = drawn(rng, mode, height, width, kind in ("JPEG", "WEBP"))
    if (kind, mode) == ("GIF", "RGB"):
        shown = None  # it holds 256 colours
    options: dict[str, object] = {}
    if orientation != 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    if kind == "JPEG":
        options |= {"quality": 100, "subsampling": 0}
    if kind == "WEBP":
        options |= {"quality": 100}
    out = io.BytesIO()
    try:
        image.save(out, kind, **options)
    except (OSError, ValueError, KeyError, TypeError, SystemError):
        return None, None
    return (turned(shown, orientation) if shown is not None else None), out.getvalue()


def drawn(
    rng: random.Random, mode: str, height: int, width: int, smooth: bool
) -> tuple[Image.Image, np.ndarray | None]:
    """A picture in a mode, and its pixels as RGB if there is no doubt about them."""
    pixels = noise(rng, height, width)
    if smooth:  # a lossy format keeps it
        pixels = np.broadcast_to(pixels[:1, :1], pixels.shape).copy()
    if mode in ("I;16", "I"):
        grey = pixels[..., 0]
        wide = grey.astype(np.uint16) * 257
        image = Image.fromarray(wide if mode == "I;16" else wide.astype(np.int32))
        return image, np.repeat(grey[..., None], 3, 2)
    if mode == "F":
        return Image.fromarray(pixels[..., 0].astype(np.float32)), None
    image = Image.fromarray(pixels)
    if mode == "1":
        bits = pixels[..., 0] > 127
        return Image.fromarray(bits), np.repeat(255 * bits[..., None].astype(np.uint8), 3, 2)
    if mode in ("L", "P"):
        grey = Image.fromarray(pixels[..., 0])
        shown = np.repeat(pixels[..., :1], 3, 2)
        return (grey if mode == "L" else grey.convert("P")), shown
    if mode in ("RGBA", "LA"):
        image.putalpha(255)  # opaque, so that no background comes in
        return (image if mode == "RGBA" else image.convert("LA")), pixels if mode == "RGBA" else None
    return (
        (image, pixels)
        if mode == "RGB"
        else (image.convert(mode) if mode != "LAB" else Image.new(mode, (width, height)), None)
    )


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As EXIF's table has it: 2 mirrored, 3 upside down, 6 a quarter turn clockwise, and so on."""
    ways = {
        2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1), 6: lambda p: p[::-1].swapaxes(0, 1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1), 8: lambda p: p[:, ::-1].swapaxes(0, 1),
    }  # fmt: skip
    return ways.get(orientation, lambda p: p)(pixels)


def damaged(rng: random.Random, data: bytes, damage: str) -> bytes:
    """A file's bytes with one kind of damage."""
    middle = rng.randrange(max(1, len(data)))
    if damage == "flipped":
        bytes_ = bytearray(data)
        for _ in range(rng.choice((1, 3, 20))):
            if bytes_:
                bytes_[rng.randrange(len(bytes_))] = rng.randrange(256)
        return bytes(bytes_)
    return {
        "": data, "truncated": data[:middle], "empty": b"", "other bytes": rng.randbytes(200),
        "text": b"this is no picture\n", "appended": data + rng.randbytes(50),
        "another's head": b"\x89PNG\r\n\x1a\n" + data[8:], "zeros": b"\0" * len(data),
        "doubled": data + data,
    }[damage]  # fmt: skip


def unlike(given: np.ndarray, shown: np.ndarray, exact: bool) -> str:
    """What is wrong with pixels, if anything: a lossy format of one colour is a few steps off."""
    off = np.abs(given - shown.astype(np.float32)).max(initial=0)
    return "" if off <= (0.01 if exact else 6) else f"pixels are {off:.0f} steps off"
