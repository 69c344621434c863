"""Where pictures come from: a folder, a list of files, tar shards, or tables."""

from pathlib import Path

from sparsight.encode.sources.base import Source, UnreadError
from sparsight.encode.sources.files import Folder, NamedFiles
from sparsight.encode.sources.shards import Shards
from sparsight.encode.sources.tables import Tables, parquets
from sparsight.errors import ImagesError
from sparsight.images import image_files, short_name

__all__ = ["Source", "UnreadError", "source_of"]

LISTS, TABLES = (".txt", ".lst", ".list"), (".parquet", ".arrow")


def source_of(place: str, column: str | None = None, id_column: str | None = None) -> Source:
    """The source at a place; ImagesError if there is none of a known kind."""
    kind, path = kind_of(place), Path(place).absolute()
    if kind is not Tables and (column or id_column):
        raise ImagesError(f"--column and --id are of tables, and {place} is none")
    return kind(str(path), column, id_column, single=kind in (Folder, NamedFiles))


def kind_of(place: str) -> type[Source]:
    """By what is there."""
    path = Path(place)
    if path.suffix in (".tar", ".tgz", ".gz"):
        return Shards
    if path.is_file():
        if path.suffix in TABLES:
            return Tables
        if path.suffix in LISTS:
            return NamedFiles
        raise ImagesError(
            f"{place} is no source of pictures: give a folder, a .txt that names files, .tar shards, or "
            ".parquet"
        )
    if not path.is_dir():
        raise ImagesError(f"there are no pictures at {short_name(place)}")
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return Tables
    there = [kind for kind, holds in HOLDS.items() if holds(path)]
    if len(there) > 1:
        raise ImagesError(
            f"{place} holds {' and '.join(HELD[kind] for kind in there)}: say which, with a "
            "pattern like FOLDER/*.tar, the .parquet itself, or a folder of its own"
        )
    return there[0] if there else Folder


HOLDS = {
    Folder: lambda path: bool(image_files(path)),
    Shards: lambda path: next(path.glob("*.tar"), None) is not None,
    Tables: lambda path: bool(parquets(path)),
}
HELD: dict[type[Source], str] = {Folder: "pictures", Shards: ".tar shards", Tables: ".parquet tables"}
