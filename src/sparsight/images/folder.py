"""Which files of a folder are pictures, and how many others were there, by reason."""

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from sparsight.errors import ImagesError
from sparsight.images.names import short_name

# What Pillow reads by itself: no PostScript (which runs another program), no stub for other readers.
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA",
    "TIFF", "WEBP",
)  # fmt: skip
PHONES = frozenset((".heic", ".heif", ".hif"))
ARCHIVES = frozenset((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"))
TABLES = frozenset((".parquet", ".arrow", ".h5", ".hdf5", ".npz", ".npy", ".tfrecord", ".lmdb", ".mdb"))


@dataclass
class Found:
    """Picture files in the order of their names, and how many other files there were, by reason."""

    paths: list[Path] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)


@lru_cache(maxsize=1)
def kinds() -> tuple[tuple[str, ...], frozenset[str]]:
    """The formats that are read here, and the endings of their files; HEIC with pillow-heif alone."""
    from PIL import Image

    formats: tuple[str, ...] = FORMATS
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        register_heif_opener()
        formats = (*formats, "HEIF")
    endings = Image.registered_extensions()  # registers all that this Pillow has
    formats = tuple(name for name in formats if name in Image.OPEN)
    own = {ending for ending, name in endings.items() if name in formats}
    return formats, frozenset(own | (PHONES if "HEIF" in formats else frozenset()))


def is_passed_over(name: str) -> bool:
    """Whether a file or folder is none of the user's pictures: hidden, or what a Mac adds to a zip."""
    return name.startswith(".") or name == "__MACOSX"


def image_files(folder: Path) -> list[Path]:
    """Every picture file under `folder`, at any depth, sorted."""
    return look_through(folder).paths


def look_through(folder: Path) -> Found:
    """What is under `folder`, at any depth; a folder is entered once, by its own path if it has one.

    Raises ImagesError if `folder` is none or cannot be listed.
    """
    check_folder(folder)
    found, endings = Found(), kinds()[1]
    # A link to a folder above would lead back here.
    entered = {_identity(place) for place in folder.resolve().parents}
    waiting, links = [folder], list[Path]()
    while waiting or links:
        place = waiting.pop() if waiting else links.pop(0)
        try:
            identity = _identity(place)
            if identity in entered:
                continue
            entered.add(identity)
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            if place == folder:
                raise ImagesError(f"cannot list {short_name(folder)}: {error.strerror}") from None
            found.passed[f"folder that cannot be listed ({error.strerror})"] += 1
            continue
        for entry in entries:
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link that leads to itself
                is_folder = is_file = False
            if is_passed_over(entry.name):
                ending = Path(entry.name).suffix.lower()
                found.passed["hidden"] += is_folder or ending in endings
            elif is_folder:
                (links if entry.is_symlink() else waiting).append(place / entry.name)
            elif is_file and Path(entry.name).suffix.lower() in endings:
                found.paths.append(place / entry.name)
            else:
                found.passed[_kind(entry.name, is_file)] += 1
    found.paths.sort()
    return found


def check_folder(folder: Path) -> None:
    """Refuse what is no folder, saying what to do with it."""
    try:
        if folder.is_dir():
            return
        exists = folder.exists()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ImagesError(f"cannot open the folder {short_name(folder)}: {error}") from None
    if not exists:
        raise ImagesError(f"there is no folder {short_name(folder)}")
    ending = folder.suffix.lower()
    if ending in ARCHIVES:
        raise ImagesError(f"{short_name(folder)} is an archive: unpack it, and give the folder")
    if ending in TABLES:
        raise ImagesError(
            f"{short_name(folder)} is no folder: write its pictures as files, or read them in Python"
        )
    if ending in kinds()[1] | PHONES:
        raise ImagesError(f"{short_name(folder)} is a single picture: give the folder that holds it")
    raise ImagesError(f"{short_name(folder)} is a file: give a folder of pictures")


def _identity(place: Path) -> tuple[int, int]:
    status = place.stat()
    return status.st_dev, status.st_ino


def _kind(name: str, is_file: bool) -> str:
    """What a file is that is not read, and how it would be."""
    ending = Path(name).suffix.lower()
    if not is_file:
        return "broken link or no file"
    if ending in PHONES:
        return f"{ending} (pip install 'sparsight[heic]')"
    if ending in ARCHIVES:
        return f"{ending} (unpack it)"
    return short_name(ending) or "without an ending"
