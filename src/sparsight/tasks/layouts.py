"""Which picture belongs to which labels, in the folder layouts of public data sets."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sparsight.errors import ImagesError, LabelsError
from sparsight.images import image_files


class Pair(NamedTuple):
    """A picture and its labels or mask."""

    image: Path
    labels: Path


class Split(NamedTuple):
    """Pairs to train a probe on, and pairs to judge it by."""

    train: list[Pair]
    val: list[Pair]


@dataclass(frozen=True)
class Layout:
    """A data set's folders (by `{split}`), and its usual number of classes and void label."""

    train: str
    val: str
    images: str
    labels: str
    classes: int
    void: int
    list_file: str = ""  # names the pictures of a split, one a line; none: all there are

    def fits(self, data: Path) -> bool:
        """Whether the folders of the training pictures and labels are there."""
        return all(
            (data / part.format(split=self.train)).is_dir() for part in (self.images, self.labels)
        )

    def pairs(self, data: Path, split: str) -> list[Pair]:
        """All pairs of one split, sorted by name."""
        images, labels = (data / part.format(split=split) for part in (self.images, self.labels))
        if not self.list_file:
            return match(images, labels)
        return listed(data / self.list_file.format(split=split), images, labels)


SEGMENTATION = {
    "ade20k": Layout("training", "validation", "images/{split}", "annotations/{split}", 151, 0),
    "voc": Layout(
        "train", "val", "JPEGImages", "SegmentationClass", 21, 255, "ImageSets/Segmentation/{split}.txt"
    ),
    "camvid": Layout("train", "val", "{split}/images", "{split}/labels", 11, 11),
}

SALIENT = (
    Layout("train", "val", "{split}/im", "{split}/gt", 2, 255),
    Layout("train", "val", "{split}/images", "{split}/masks", 2, 255),
    Layout("DIS-TR", "DIS-VD", "{split}/im", "{split}/gt", 2, 255),
)


def segmentation(data: Path, named: str | None) -> tuple[str, Layout]:
    """The layout called `named`, or the first whose folders are there."""
    for name, layout in SEGMENTATION.items():
        if named in (None, name) and layout.fits(data):
            return name, layout
    kinds = [named] if named else list(SEGMENTATION)
    wanted = "; ".join(f"{k}: {_folders(SEGMENTATION[k])}" for k in kinds)
    raise LabelsError(f"{data} has none of the layouts known for segmentation ({wanted})")


def salient(data: Path) -> Split:
    """Pictures and masks of a data set with two splits, or of one folder: every second for training."""
    for layout in SALIENT:
        if layout.fits(data):
            return Split(layout.pairs(data, layout.train), layout.pairs(data, layout.val))
    single = mask_pairs(data)
    if len(single) < 2:
        raise LabelsError(f"{data} holds one picture, and a probe needs one to learn from and one more")
    return Split(single[0::2], single[1::2])


def mask_pairs(data: Path) -> list[Pair]:
    """Pictures and masks of one folder, in im/ and gt/ or in images/ and masks/."""
    for images, masks in (("im", "gt"), ("images", "masks")):
        if (data / images).is_dir() and (data / masks).is_dir():
            return match(data / images, data / masks)
    raise LabelsError(
        f"{data} has neither im/ and gt/ nor images/ and masks/, alone or within train/ and val/ "
        "(or DIS-TR/ and DIS-VD/)"
    )


def match(images: Path, labels: Path) -> list[Pair]:
    """Pair files of the same name (whatever its ending); refuse the first that has no partner."""
    for folder in (images, labels):
        if not folder.is_dir():
            raise LabelsError(f"there is no folder {folder}")
    pictures, truths = (_by_name(folder) for folder in (images, labels))
    for name in sorted(pictures.keys() | truths.keys()):
        if name not in truths:
            raise LabelsError(f"{pictures[name]} has no labels: there is no {labels / name}.*")
        if name not in pictures:
            raise LabelsError(f"{truths[name]} has no picture: there is no {images / name}.*")
    if not pictures:
        raise ImagesError(f"{images} holds no image")
    return [Pair(pictures[name], truths[name]) for name in sorted(pictures)]


def listed(list_file: Path, images: Path, labels: Path) -> list[Pair]:
    """The pairs a text file names, one a line, as .jpg and .png."""
    try:
        names = list_file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"cannot read {list_file}: {error}") from None
    pairs = [Pair(images / f"{name}.jpg", labels / f"{name}.png") for name in names]
    for path in (path for pair in pairs for path in pair):
        if not path.is_file():
            raise LabelsError(f"{list_file} names {path.stem}, and there is no {path}")
    if not pairs:
        raise ImagesError(f"{list_file} names no picture")
    return pairs


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """Class name -> its pictures, from the folders in `folder` (ImageNet-1K's layout)."""
    if not folder.is_dir():
        raise LabelsError(f"there is no folder {folder}: wanted train/CLASS/*.jpg and val/CLASS/*.jpg")
    found = {path.name: image_files(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    if not any(found.values()):
        raise ImagesError(f"{folder} holds no image in a folder named after its class")
    return found


def _by_name(folder: Path) -> dict[str, Path]:
    """Path inside `folder` without its ending -> file."""
    found: dict[str, Path] = {}
    for path in image_files(folder):
        name = str(path.relative_to(folder).with_suffix(""))
        if name in found:
            raise LabelsError(f"{found[name]} and {path} have one name: which of them is meant?")
        found[name] = path
    return found


def _folders(layout: Layout) -> str:
    parts = (layout.images, layout.labels, layout.list_file)
    return ", ".join(part.format(split=layout.train) for part in parts if part)
