"""The last look before anything leaves: no place of this machine, no token, no name of a picture.

What is uploaded is chosen file by file and key by key (clean.py); this finds what came by another way,
such as a path in a plan's reasons, and refuses it.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sparsight.errors import SparsightError
from sparsight.images import shown

TEXT = (".json", ".md", ".html")
TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}")
PLACE = re.compile(r"(?<![\w.:/<>*\\-])(?:/|~/|[A-Za-z]:\\\\?)[\w.@+-]+[/\\][\w.@+-]+|file://")
HEADER_BYTES = 8  # of a safetensors file: the length of the JSON that follows


def check_nothing_leaks(folder: Path, names: Iterable[str]) -> None:
    """Raise SparsightError at the first text in `folder` that holds what is nobody else's.

    `names` are those of pictures that must not be told.
    """
    known = {name for one in names for name in (one, Path(one).name) if len(name) > 2}
    pictures = [(name, re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])")) for name in sorted(known)]
    for path, text in _texts(folder):
        if TOKEN.search(text):
            raise SparsightError(
                f"{path.name} would hold what looks like a token of the hub: nothing was sent"
            )
        if place := None if path.suffix == ".html" else PLACE.search(text):
            raise SparsightError(
                f"{path.name} would tell a place of this machine ({shown(place.group())[:60]}...): "
                "nothing was sent; take it out of plan.json"
            )
        for name, pattern in pictures:
            if pattern.search(text):
                raise SparsightError(
                    f"{path.name} would tell the name of a picture ({shown(name)[:60]}): nothing was "
                    "sent; take it out of plan.json, or give --with-pictures"
                )


def _texts(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every text that is in the folder, the headers of tensors included."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in TEXT:
            yield path, path.read_text(encoding="utf-8", errors="replace")
        elif path.suffix == ".safetensors":
            with path.open("rb") as file:
                length = int.from_bytes(file.read(HEADER_BYTES), "little")
                yield path, file.read(length).decode("utf-8", "replace")
