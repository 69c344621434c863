"""Which pictures of a sink are like a given one: by cosine, over all of them or through an index."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparsight.encode.encoder import Encoder
from sparsight.encode.index import search_index
from sparsight.encode.reading import Opened, open_sink, unit, vectors_of
from sparsight.encode.settings import EncoderSettings
from sparsight.errors import ImagesError, SparsightError
from sparsight.images import short_name

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Match:
    """One picture of the sink."""

    id: str
    cosine: float


def neighbours(
    folder: Path, picture: Path, count: int = 12, column: str | None = None, index: bool = False
) -> list[Match]:
    """The `count` pictures of a sink with the highest cosine to `picture`, the highest first.

    `column` is the vector to compare, the sink's first by default.  `index` searches faiss's HNSW
    index, which is made at first and kept in the sink; what it finds is nearly always the same.
    """
    opened = open_sink(folder)
    names = opened.facts["vectors"]
    if column is not None and column not in names:
        raise SparsightError(f"{folder} has no vector {column!r}: it has {', '.join(names) or 'none'}")
    if not names:
        raise SparsightError(f"{folder} has maps alone: encode with --output pooled to compare pictures")
    column = column or names[0]
    vector = encoded(opened, picture, column)
    if index:
        return [Match(*found) for found in search_index(opened, column, vector, count)]
    return exact(opened, column, vector, count)


def encoded(opened: Opened, picture: Path, column: str) -> "np.ndarray":
    """The unit vector (c,) of a picture, by the encoder that the sink was made with."""
    encoder = Encoder(EncoderSettings.model_validate(opened.facts["settings"] | {"device": None}))
    for name, value in opened.facts["features"].items():
        if encoder.facts[name] != value:
            raise SparsightError(
                f"{opened.ledger.folder} was made with other {name} than {encoder.settings.model} has "
                "now, so its pictures cannot be compared with new ones: encode them again"
            )
    try:
        data = picture.read_bytes()
        grid = encoder.grid(data)
        image = encoder.picture(data, grid)[0]
    except (OSError, ImagesError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ImagesError(f"{short_name(picture)} cannot be read: {why}") from None
    vector = encoder(image[None], grid)[column][0].numpy()
    return unit(vector[None])[0]


def exact(opened: Opened, column: str, vector: "np.ndarray", count: int) -> list[Match]:
    """All pictures compared, a part at a time."""
    best: list[tuple[float, str]] = []
    for ids, vectors in vectors_of(opened, column):
        scores = vectors @ vector
        best = sorted(
            [*best, *zip(scores.tolist(), ids, strict=True)], key=lambda one: (-one[0], one[1])
        )
        best = best[:count]
    return [Match(name, score) for score, name in best]
