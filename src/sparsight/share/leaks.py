"""The last look before anything leaves: no place of this machine, no token, no name of a picture.

What is uploaded is chosen file by file and key by key (clean.py); this finds what came by another way,
such as a path in a plan's reasons, and refuses it.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sparsight.errors import SparsightError
from sparsight.images import shown

TEXT = (".json", ".md", ".html")
TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}")
PLACE = re.compile(r"(?<![\w.:/<>*\\-])(?:/|~/|[A-Za-z]:\\\\?)[\w.@+-]+[/\\][\w.@+-]+|file://")
HEADER_BYTES = 8  # of a safetensors file: the length of the JSON that follows
BY_PLACE = re.compile(r"picture \d+")  # what a picture without a name is called


def check_nothing_leaks(folder: Path, run: Path, names: Iterable[str]) -> None:
    """Raise SparsightError at the first text in `folder` that holds what is nobody else's.

    `run` is the folder that is shared, `names` are those of pictures that must not be told.
    """
    here = [place for place in (run.resolve(), Path.cwd(), Path.home()) if len(place.parts) > 1]
    known = {name for one in names for name in (one, Path(one).name) if len(name) > 2}
    pictures = [(name, _alone(name)) for name in sorted(known) if not BY_PLACE.fullmatch(name)]
    for path, text in _texts(folder):
        page = path.suffix == ".html"  # which has a program in it, with short paths of its own
        places = [str(place) for place in here if len(place.parts) > 2 or not page]
        what = next((place for place in places if _alone(place).search(text)), None)
        if what is None and not page and (found := PLACE.search(text)):
            what = found.group()
        if what is not None:
            raise _refused(path, "a place of this machine", what, "")
        if TOKEN.search(text):
            raise _refused(path, "a token of the hub", "hf_...", "")
        if name := next((name for name, pattern in pictures if pattern.search(text)), None):
            raise _refused(path, "the name of a picture", name, ", or give --with-pictures")


def _refused(path: Path, kind: str, what: str, way: str) -> SparsightError:
    return SparsightError(
        f"{path.name} would tell {kind} ({shown(what)[:60]}): nothing was sent; take it out of "
        f"plan.json{way}"
    )


def _alone(text: str) -> re.Pattern[str]:
    """`text` as a whole, and not as a part of a longer name."""
    return re.compile(rf"(?<![\w.-]){re.escape(text)}(?![\w.-])")


def _texts(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every text that is in the folder, the headers of tensors included."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                length = int.from_bytes(file.read(HEADER_BYTES), "little")
                yield path, _unescaped(file.read(length).decode("utf-8", "replace"))
        elif path.suffix in TEXT:
            text = path.read_text(encoding="utf-8", errors="replace")
            yield path, _unescaped(text) if path.suffix == ".json" else text


def _unescaped(text: str) -> str:
    """JSON with its letters as they are."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except ValueError:
        return text
