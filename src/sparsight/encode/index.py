"""An index of a sink's vectors for searching many of them: faiss's HNSW, kept in the sink."""

import json
from typing import TYPE_CHECKING, Any

from sparsight.encode.reading import Opened, vectors_of
from sparsight.extras import extra
from sparsight.files import write_atomically, write_json

if TYPE_CHECKING:
    import numpy as np

LINKS = 32  # of each vector in HNSW's graph
EFFORT = 128  # candidates held while searching


def search_index(
    opened: Opened, column: str, vector: "np.ndarray", count: int
) -> list[tuple[str, float]]:
    """Ids and cosines of the nearest; makes the index first where it is not of the parts there are."""
    faiss = extra("faiss")
    folder = opened.ledger.folder / "index"
    graph, names = folder / f"{column}.faiss", folder / f"{column}.json"
    held: dict[str, Any] = json.loads(names.read_text(encoding="utf-8")) if names.exists() else {}
    if held.get("parts") != opened.parts or not graph.exists():
        held = {"parts": opened.parts, "ids": _build(opened, column, graph)}
        write_json(names, held)
    found = faiss.read_index(str(graph))
    found.hnsw.efSearch = max(EFFORT, count)
    scores, places = found.search(vector[None], min(count, len(held["ids"])))
    both = zip(places[0].tolist(), scores[0].tolist(), strict=True)
    return [(held["ids"][place], score) for place, score in both if place >= 0]


def _build(opened: Opened, column: str, path: Any) -> list[str]:
    """Write the graph of all vectors; returns their ids in its order."""
    faiss, ids, graph = extra("faiss"), list[str](), None
    for names, vectors in vectors_of(opened, column):
        if graph is None:
            graph = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.add(vectors)
        ids += names
    write_atomically(path, lambda place: faiss.write_index(graph, str(place)))
    return ids
