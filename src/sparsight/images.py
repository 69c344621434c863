"""Unlabelled images for the stages: a folder, or any sequence of tensors."""

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from sparsight.errors import ImagesError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"))
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)


class Items(Protocol[Item_co]):
    """A count, and item i.  An unreadable one raises ImagesError when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item_co: ...


# What the stages need of images: pictures as normalised (3, height, width) tensors.
Images = Items["Tensor"]


class ImageFiles:
    """Image files, resized to one resolution and normalised."""

    def __init__(
        self,
        paths: Sequence[Path],
        resolution: tuple[int, int],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        self.paths, self.resolution = list(paths), resolution
        self.mean, self.std = tuple(mean), tuple(std)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> "Tensor":
        from PIL import Image

        image = read_picture(self.paths[index])
        height, width = self.resolution
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
        return to_tensor(image, self.mean, self.std)

    def name_of(self, index: int) -> str:
        """The file's name."""
        return self.paths[index].name


class ImageFolder(ImageFiles):
    """Every image file under a folder, in the order of their names."""

    def __init__(
        self,
        folder: "str | PathLike[str]",
        resolution: tuple[int, int],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ImagesError(f"there is no folder {self.folder}")
        super().__init__(image_files(self.folder), resolution, mean, std)
        if not self.paths:
            raise ImagesError(f"{self.folder} holds no image (looked for {', '.join(sorted(SUFFIXES))})")

    def name_of(self, index: int) -> str:
        """The path inside the folder: two files may have the same name."""
        return str(self.paths[index].relative_to(self.folder))


def image_files(folder: Path) -> list[Path]:
    """Every image file under `folder`, at any depth, sorted."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def named(images: Items[Item], place: int) -> str:
    """What to call a picture: as the set calls it, or by its place."""
    name_of = getattr(images, "name_of", None)
    return name_of(place) if name_of is not None else f"picture {place}"


def read_picture(path: Path) -> "Image":
    """The picture upright (EXIF) in RGB with 8 bits; transparency is dropped, not blended.

    Raises ImagesError if the file cannot be read.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            return _eight_bits(ImageOps.exif_transpose(opened)).convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise ImagesError(f"cannot read {path}: {error}") from None
    except Image.DecompressionBombError as error:
        raise ImagesError(f"{path} is too large: {error}") from None


def _eight_bits(image: "Image") -> "Image":
    """Grey of 16 bits scaled to 8; Pillow's own conversion would turn all above 255 white."""
    import numpy as np
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its values are floating-point numbers, whose range is not known")
    if not image.mode.startswith("I"):
        return image
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError("its values do not fit into 16 bits")
    return Image.fromarray((grey // 257).astype(np.uint8))


def to_tensor(image: object, mean: Sequence[float], std: Sequence[float]) -> "Tensor":
    """A normalised (3, height, width) tensor from an RGB picture (PIL, or an array of bytes)."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


class Held(Generic[Item]):
    """Items that are read once and kept, as far as the memory for it goes; the others are read again."""

    def __init__(self, images: Items[Item], budget_bytes: int = 2 << 30) -> None:
        self.images, self.left = images, budget_bytes
        self.kept: dict[int, Item | ImagesError] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        if index not in self.kept:
            try:
                found: Item | ImagesError = self.images[index]
            except ImagesError as error:
                found = error
            size = (
                getattr(found, "nbytes", 0)
                if not isinstance(found, tuple)
                else sum(getattr(part, "nbytes", 0) for part in found)
            )
            if size <= self.left:
                self.left -= size
                self.kept[index] = found
        else:
            found = self.kept[index]
        if isinstance(found, ImagesError):
            raise found
        return found

    def name_of(self, index: int) -> str:
        """What the set calls it."""
        return named(self.images, index)


class Reader(Generic[Item]):
    """Reads pictures (with labels or without), passing over unreadable ones; `skipped` says which."""

    def __init__(self, images: Items[Item]) -> None:
        if len(images) == 0:
            raise ImagesError("there is no image")
        self.images, self.skipped = images, dict[int, str]()

    def read(self, index: int) -> Item:
        """Picture `index`, or the next readable one after it (going round)."""
        for step in range(len(self.images)):
            place = (index + step) % len(self.images)
            if place in self.skipped:
                continue
            try:
                return self.images[place]
            except ImagesError as error:
                self.skipped[place] = str(error)
        raise ImagesError(f"none of the {len(self.images)} images can be read: {self.skipped[0]}")

    def spread(self, count: int) -> Iterator[Item]:
        """Up to `count` readable pictures, evenly over the whole set, each once."""
        return (picture for _, picture in self.placed(count))

    def placed(self, count: int) -> Iterator[tuple[int, Item]]:
        """As `spread`, each picture with its place in the set."""
        total = len(self.images)
        count = min(count, total)
        given = 0
        for number in range(count):
            place = number * total // count
            try:
                picture = self.images[place]
            except ImagesError as error:
                self.skipped[place] = str(error)
                continue
            given += 1
            yield place, picture
        if not given:
            raise ImagesError(f"no image could be read: {next(iter(self.skipped.values()))}")


def parse_resolution(text: str) -> tuple[int, int]:
    """Height and width in pixels from "1024" (square) or "768x1024" (height x width)."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdigit() and int(side) > 0 for side in sides):
        raise ImagesError(f"resolution {text!r} is neither like 1024 nor like 768x1024 (height x width)")
    return int(sides[0]), int(sides[-1])


def check_resolution(resolution: tuple[int, int], patch_px: tuple[int, int]) -> None:
    """Refuse a resolution that the patch size does not divide, naming the nearest that it does."""
    if all(side % patch == 0 for side, patch in zip(resolution, patch_px, strict=True)):
        return
    nearest = [
        max(1, round(side / patch)) * patch for side, patch in zip(resolution, patch_px, strict=True)
    ]
    raise ImagesError(
        f"resolution {resolution[0]}x{resolution[1]} is not a multiple of the model's patch size "
        f"{patch_px[0]}x{patch_px[1]}; the nearest that is: {nearest[0]}x{nearest[1]}"
    )
