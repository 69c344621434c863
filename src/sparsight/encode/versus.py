"""Sparse against dense, end to end: reading, decoding and all, in turns."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from sparsight.encode.encoder import Encoder
from sparsight.encode.listing import Record
from sparsight.encode.sources import Source
from sparsight.encode.work import encoded_parts
from sparsight.errors import PlanError

REPEATS = 3


def compare_dense(
    sparse: Encoder, source: Source, records: Sequence[Record], readers: int
) -> dict[str, Any]:
    """Pictures a second of both, medians of REPEATS turns after one picture each to warm up."""
    check_comparable(sparse)
    arms = {"sparse": sparse, "dense": Encoder(sparse.settings.model_copy(update={"dense": True}))}
    times: dict[str, list[float]] = {name: [] for name in arms}
    tallies = {}
    for encoder in arms.values():
        list(encoded_parts(encoder, source, iter([(0, records[:1])]), readers))
    for turn in range(REPEATS):
        for name in sorted(arms, reverse=bool(turn % 2)):
            began = time.perf_counter()
            (part,) = encoded_parts(arms[name], source, iter([(0, records)]), readers)
            times[name].append(time.perf_counter() - began)
            tallies[name] = part.tally
    rates = {name: tallies[name].pictures / statistics.median(times[name]) for name in arms}
    return {
        "pictures": len(records), "ran_dense": tallies["sparse"].dense, "repeats": REPEATS,
        "seconds": times, "sparse_pictures_per_s": rates["sparse"],
        "dense_pictures_per_s": rates["dense"], "speedup": rates["sparse"] / rates["dense"],
    }  # fmt: skip


def check_comparable(encoder: Encoder) -> None:
    """PlanError if nothing is sparse."""
    if encoder.loaded.plan is None:
        raise PlanError(
            "there is nothing sparse to compare with dense: give a run folder, without --dense"
        )
