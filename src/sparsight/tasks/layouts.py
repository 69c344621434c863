"""The folder layouts of public data sets: where the pictures of each split are, and their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sparsight.errors import ImagesError, LabelsError
from sparsight.images import image_files, is_passed_over
from sparsight.tasks.pairs import (
    LABEL_ENDINGS,
    Pair,
    composed,
    listed,
    match,
)
from sparsight.tasks.table import VOID, Table, table_of


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
    endings: tuple[str, ...] = LABEL_ENDINGS  # of the labels' names, the first that fits
    tables: tuple[tuple[str, Table], ...] = ()  # what numbers mean in labels of such an ending

    def fits(self, data: Path) -> bool:
        """Whether the folders of the training pictures and labels are there."""
        return not self.missing(data)

    def missing(self, data: Path) -> list[Path]:
        """Which of the two are not."""
        parts = (self.images, self.labels)
        folders = [data / part.format(split=self.train) for part in parts]
        return [folder for folder in folders if not folder.is_dir()]

    def pairs(self, data: Path, split: str) -> list[Pair]:
        """All pairs of one split, sorted by name."""
        images, labels = (data / part.format(split=split) for part in (self.images, self.labels))
        if not self.list_file:
            return match(images, labels, self.endings)
        return listed(data / self.list_file.format(split=split), images, labels)

    def table(self, pairs: Sequence[Pair]) -> Table | None:
        """What the numbers in these labels mean, where they are not classes themselves."""
        name = pairs[0].labels.stem.lower()
        return next((table for ending, table in self.tables if name.endswith(ending)), None)


# The classes of Cityscapes that are judged, by the numbers in its files (cityscapesScripts, labels.py).
CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_IDS = table_of(
    dict.fromkeys((*range(34), 255), VOID) | {number: k for k, number in enumerate(CITYSCAPES)}
)

SEGMENTATION = {
    "ade20k": Layout("training", "validation", "images/{split}", "annotations/{split}", 151, 0),
    "voc": Layout(
        "train", "val", "JPEGImages", "SegmentationClass", 21, 255, "ImageSets/Segmentation/{split}.txt"
    ),
    "camvid": Layout("train", "val", "{split}/images", "{split}/labels", 11, 11),
    "cityscapes": Layout(
        "train", "val", "leftImg8bit/{split}", "gtFine/{split}", 19, 255,
        endings=("_gtfine_labeltrainids", "_gtfine_labelids"),
        tables=(("_gtfine_labelids", CITYSCAPES_IDS),),
    ),
}  # fmt: skip

MASKS = (("im", "gt"), ("images", "masks"), ("imgs", "masks"))  # folders of pictures and of masks
SALIENT = tuple(
    Layout(train, val, f"{{split}}/{images}", f"{{split}}/{masks}", 2, 255)
    for train, val in (("train", "val"), ("DIS-TR", "DIS-VD"))
    for images, masks in MASKS
)


def segmentation(data: Path, named: str | None) -> tuple[str, Layout]:
    """The layout called `named`, or the first whose folders are there."""
    kinds = {name: SEGMENTATION[name] for name in ([named] if named else SEGMENTATION)}
    for name, layout in kinds.items():
        if layout.fits(data):
            return name, layout
    for name, layout in kinds.items():
        if len(missing := layout.missing(data)) == 1:
            raise LabelsError(f"there is no folder {missing[0]}, which the layout {name} has")
    wanted = "; ".join(f"{name}: {_folders(layout)}" for name, layout in kinds.items())
    raise LabelsError(f"{data} has none of the layouts for segmentation ({wanted})")


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
    """Pictures and masks of one folder."""
    for images, masks in MASKS:
        if (data / images).is_dir() and (data / masks).is_dir():
            return match(data / images, data / masks)
    raise LabelsError(
        f"{data} has neither im/ and gt/ nor images/ (or imgs/) and masks/, alone or within train/ and "
        "val/ (or DIS-TR/ and DIS-VD/)"
    )


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """Class name -> its pictures, from the folders in `folder` (ImageNet-1K's layout)."""
    if not folder.is_dir():
        raise LabelsError(f"there is no folder {folder}: wanted train/CLASS/*.jpg and val/CLASS/*.jpg")
    folders = sorted(
        path for path in folder.iterdir() if path.is_dir() and not is_passed_over(path.name)
    )
    found = {composed(path.name): image_files(path) for path in folders}
    if not any(found.values()):
        raise ImagesError(f"{folder} holds no image in a folder named after its class")
    if len(found) == 1:
        raise LabelsError(f"{folder} has one class alone, {next(iter(found))!r}: nothing to tell apart")
    return found


def _folders(layout: Layout) -> str:
    parts = (layout.images, layout.labels, layout.list_file)
    return ", ".join(part.format(split=layout.train) for part in parts if part)
