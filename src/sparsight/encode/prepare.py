"""Before the work: what to tell, what is new, and which parts are missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sparsight.encode.encoder import Encoder
from sparsight.encode.ledger import Ledger
from sparsight.encode.listing import table_of
from sparsight.encode.news import check_unchanged, news
from sparsight.encode.room import part_size
from sparsight.encode.sinks import sink_at
from sparsight.encode.sources import Source
from sparsight.encode.work import Job
from sparsight.images import short_name


@dataclass(frozen=True)
class How:
    """How the work is done and kept; nothing of it changes what the features are."""

    format: str = "parquet"  # or lance, webdataset
    maps: str = "safetensors"  # or npy
    limit: int | None = None  # the first so many pictures of the source
    part_pictures: int | None = None  # of a part  (None: 256, or as many as their maps allow)
    readers: int | None = None  # threads that read and decode  (None: by the cores and the device)
    ray: str | None = None  # address of a Ray cluster; "local" starts one here
    actors: int | None = None  # of Ray  (None: one for each GPU, or core)
    compare_dense: int = 0  # pictures to compare sparse with dense on, before the work


def notes(source: Source, encoder: Encoder) -> Iterator[str]:
    """What a user should know before the work."""
    if passed := source.passed():
        yield f"left out of {short_name(source.place)}: {passed}"
    yield from encoder.loaded.notes
    if encoder.loaded.random_weights:
        yield "these are random weights: speed means something, the features do not"


def prepared(ledger: Ledger, encoder: Encoder, job: Job, listing: Any, how: How) -> list[int]:
    """Check that the sink is for these features, list what is new, and say which parts are missing."""
    source = {"place": job.source.place, "column": job.source.column, "id": job.source.id_column}
    ledger.begin(
        {
            "features": encoder.facts, "format": job.format, "source": source,
            "settings": encoder.settings.model_dump(mode="json"), "vectors": list(encoder.widths()),
        }
    )  # fmt: skip
    found = news(ledger, listing)
    check_unchanged(found.touched, sink_at(job.folder, job.format, job.maps), job.source, encoder.key)
    ledger.update(found.moved)
    first = ledger.parts
    if found.new:
        ledger.add(table_of(found.new, job.source.place), how.part_pictures or part_size(encoder))
    wanted = None if how.limit is None else found.parts | set(range(first, ledger.parts))
    return missing(ledger, wanted)


def missing(ledger: Ledger, wanted: set[int] | None) -> list[int]:
    """The parts that are not there yet, of those that are wanted (None: of all)."""
    done = ledger.done()
    return [p for p in range(ledger.parts) if p not in done and (wanted is None or p in wanted)]
