"""Which picture belongs to which labels: files of one name, by the customs of naming labels."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sparsight.errors import ImagesError, LabelsError
from sparsight.images import image_files, is_passed_over

# What a name may have at its end, compared in lower case; none of both is preferred.
PICTURE_ENDINGS = ("", "_leftimg8bit", "_image", "-image", "_img", "_rgb", "_sat", "_im")
LABEL_ENDINGS = (
    "", "_mask", "-mask", "_masks", "_gt", "-gt", "_label", "-label", "_labels", "_l", "_labelids",
    "_labeltrainids", "_gtfine_labelids", "_gtfine_labeltrainids", "_seg", "-seg", "_segmentation",
    "_annotation", "_matte",
)  # fmt: skip
BESIDE = ("_color", "_colour", "_instanceids", "_gtfine_color", "_gtfine_instanceids", "_vis")


class Pair(NamedTuple):
    """A picture and its labels or mask."""

    image: Path
    labels: Path


def match(images: Path, labels: Path, label_endings: Sequence[str] = LABEL_ENDINGS) -> list[Pair]:
    """Pair the files of two folders by their names, whatever their endings, sorted.

    All names end alike: of `label_endings`, the first that most pictures have is taken.  Raises
    LabelsError of the first file that has no partner; further labels of a picture are passed over.
    """
    for folder in (images, labels):
        if not folder.is_dir():
            raise LabelsError(f"there is no folder {folder}")
    pictures, truths = by_name(image_files(images), images), by_name(image_files(labels), labels)
    if not pictures:
        raise ImagesError(f"{images} holds no image")
    (picture_ending, ending), pairs = _by_endings(pictures, truths, label_endings)
    bases = _without(pictures, picture_ending)
    for name in sorted(pictures.keys() - {bases[base] for base in pairs}):
        stem = _stem(name, picture_ending) or name
        there = _there(labels, stem)
        raise LabelsError(
            f"{pictures[name]} has no labels: there is no {labels / stem}{ending}.*"
            + (f", only {there.name}, whose kind or name is none of those known" if there else "")
        )
    used = {path for _, path in pairs.values()}
    for name in sorted(truths):
        own = any(_stem(name, more) in pairs for more in (*LABEL_ENDINGS, *BESIDE))
        if truths[name] not in used and not own:
            wanted = images / (_stem(name, ending) or name)
            raise LabelsError(f"{truths[name]} has no picture: there is no {wanted}.*")
    return [pairs[base] for base in sorted(pairs)]


def by_name(files: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Path inside `folder` without its suffix -> file; names in one Unicode form."""
    found: dict[str, Path] = {}
    for path in files:
        name = composed(str(path.relative_to(folder).with_suffix("")))
        if name in found:
            raise LabelsError(f"{found[name]} and {path} have one name: which of them is meant?")
        found[name] = path
    return found


def composed(name: str) -> str:
    """A name in Unicode's composed form: macOS writes accents apart."""
    return unicodedata.normalize("NFC", name)


def _by_endings(
    pictures: dict[str, Path], truths: dict[str, Path], label_endings: Sequence[str]
) -> tuple[tuple[str, str], dict[str, Pair]]:
    """The endings that pair most files, and what they pair by the name without them."""
    found: dict[tuple[str, str], dict[str, Pair]] = {}
    for first in PICTURE_ENDINGS:
        shown = _without(pictures, first)
        for second in label_endings if shown else ():
            drawn = _without(truths, second)
            found[first, second] = {
                base: Pair(pictures[shown[base]], truths[drawn[base]])
                for base in shown.keys() & drawn.keys()
            }
    best = max(found, key=lambda key: len(found[key]), default=("", ""))  # of equal ones the first
    rivals = [key for key in found if found[key] and len(found[key]) == len(found[best])]
    if len(rivals) > 1 and label_endings is LABEL_ENDINGS and best[1]:
        one, two = (next(iter(found[key].values())).labels for key in rivals[:2])
        raise LabelsError(f"{one} and {two} are both labels of one picture: which of them is meant?")
    return best, found.get(best, {})


def _without(names: dict[str, Path], ending: str) -> dict[str, str]:
    """Name without `ending` -> name, of those that have it."""
    return {base: name for name in names if (base := _stem(name, ending)) is not None}


def _stem(name: str, ending: str) -> str | None:
    """The name without its ending, if it has it and something before."""
    base = name[: len(name) - len(ending)]
    has = name.lower().endswith(ending) and base and not base.endswith("/")
    return base if has else None


def _there(labels: Path, stem: str) -> Path | None:
    """A file of labels that seems to belong to a picture."""
    near = (path for path in labels.rglob("*") if composed(path.name).startswith(Path(stem).name))
    return min((path for path in near if path.is_file() and not is_passed_over(path.name)), default=None)


def listed(list_file: Path, images: Path, labels: Path) -> list[Pair]:
    """The pairs a text file names, one a line, without the folders and suffixes."""
    try:
        lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"cannot read {list_file}: {error}") from None
    names = dict.fromkeys(composed(line.strip()) for line in lines if line.strip())
    for folder in (images, labels):
        if not folder.is_dir():
            raise LabelsError(f"there is no folder {folder}")
    pictures, truths = by_name(image_files(images), images), by_name(image_files(labels), labels)
    for name in names:
        for folder, files in ((images, pictures), (labels, truths)):
            if name not in files:
                raise LabelsError(f"{list_file} names {name}, and there is no {folder / name}.*")
    if not names:
        raise ImagesError(f"{list_file} names no picture")
    return [Pair(pictures[name], truths[name]) for name in names]
