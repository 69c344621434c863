"""A page with a picture and those of a sink that are like it, as far as the source is still there."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsight.encode.listing import records_of
from sparsight.encode.nearest import Match
from sparsight.encode.page import rendered
from sparsight.encode.pictures import upright
from sparsight.encode.reading import Opened
from sparsight.encode.sources import source_of
from sparsight.errors import SparsightError
from sparsight.files import write_text

SIDE_PX = 300  # the longer side in the page


def write_gallery(path: Path, opened: Opened, picture: Path, matches: Sequence[Match]) -> Path:
    """Write the page; returns its path."""
    files = pictures_of(opened, [match.id for match in matches])
    shown = [
        {"name": match.id, "cosine": f"{match.cosine:.4f}", "uri": uri(files.get(match.id))}
        for match in matches
    ]
    write_text(
        path,
        rendered(
            "neighbours.html", name=picture.name, uri=uri(picture.read_bytes()), shown=shown,
            sink=opened.ledger.folder.name,
        ),
    )  # fmt: skip
    return path


def pictures_of(opened: Opened, names: list[str]) -> dict[str, bytes]:
    """The files of pictures by their ids, of those that are still where they were."""
    import pyarrow as pa
    from pyarrow import compute

    given, found = opened.facts["source"], dict[str, bytes]()
    wanted = pa.array(names)
    for segment in opened.ledger.segments:
        for record in records_of(segment.filter(compute.is_in(segment["id"], wanted))):
            try:
                source = source_of(given["place"], given["column"], given["id"])
                found[record.id] = source.read(record)
            except SparsightError:
                continue
    return found


def uri(data: bytes | None) -> str | None:
    """A small version of a picture, inside a page; None if there is none to see."""
    try:
        image: Any = upright(data) if data else None
    except SparsightError:
        return None
    if image is None:
        return None
    image.thumbnail((SIDE_PX, SIDE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
