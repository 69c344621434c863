"""One run of encoding: list, check, do what is missing, sum up."""

import os
import time
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from sparsight.encode.drivers.cluster import run_on_ray
from sparsight.encode.drivers.devices import Share, this_process
from sparsight.encode.encoder import Encoder
from sparsight.encode.ledger import Ledger
from sparsight.encode.listing import table_of
from sparsight.encode.page import write_page
from sparsight.encode.prepare import How, missing, notes, prepared
from sparsight.encode.room import check_room
from sparsight.encode.settings import EncoderSettings
from sparsight.encode.sinks import sink_at
from sparsight.encode.sources import Source, source_of
from sparsight.encode.summary import SUMMARY_FILE, summary_of
from sparsight.encode.tally import Tally
from sparsight.encode.versus import check_comparable, compare_dense
from sparsight.encode.watch import watched
from sparsight.encode.work import Job, Worker
from sparsight.files import write_json
from sparsight.stages.progress import Progress, followed

READERS = 8  # threads that read and decode, at most


@followed
def encode(
    settings: EncoderSettings,
    images: "str | PathLike[str]",
    out: "str | PathLike[str]",
    how: How | None = None,
    column: str | None = None,
    id_column: str | None = None,
    say: Callable[[str], Any] = lambda text: None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Encode every picture of a source into a sink that has it exactly once; returns the summary.

    `images` is a folder, a text file with names, tar shards, parquet, or a folder of `datasets`; `out`
    the folder of the sink; `progress` is told what, how much of it is done, and of how much, and `say`
    what a user should know.  Interrupted, the same call goes on with the parts that are missing.  Raises
    SparsightError or one of its kinds; what was encoded before is kept.
    """
    how, share = how or How(), this_process()
    say = say if share.leads else lambda text: None
    source, folder = source_of(os.fspath(images), column, id_column), Path(out)
    ledger = Ledger(folder)
    sink_at(folder, how.format, how.maps)
    listing = table_of(islice(source.records(), how.limit), source.place)
    if share.device:
        settings = settings.model_copy(update={"device": share.device})
    encoder = Encoder(settings)
    if how.compare_dense:
        check_comparable(encoder)
    job = Job(settings, source, folder, how.format, how.maps, readers_of(how, encoder))
    with ledger.locked() if share.leads else nullcontext():  # what is refused above leaves no trace
        for note in notes(source, encoder):
            say(note)
        if share.leads:
            parts = prepared(ledger, encoder, job, listing, how)
        share.wait()
        if not share.leads:
            ledger.read_listing()
            parts = missing(ledger, None)
        total = sum(len(ledger.records(part)) for part in share.of(parts))
        say(check_room(encoder, total, folder))
        versus = _versus(encoder, source, ledger, job, how, say) if share.leads else None
        return _done(ledger, encoder, job, share, how, parts, total, versus, say)


def readers_of(how: How, encoder: Encoder) -> int:
    """On a CPU one thread is enough: the model wants the cores."""
    if how.readers:
        return how.readers
    return 1 if encoder.like.device.type == "cpu" else min(READERS, os.cpu_count() or 1)


def _versus(
    encoder: Encoder, source: Source, ledger: Ledger, job: Job, how: How, say: Callable[[str], Any]
) -> dict[str, Any] | None:
    if not how.compare_dense:
        return None
    records = list(
        islice((r for p in range(ledger.parts) for r in ledger.records(p)), how.compare_dense)
    )
    say(f"comparing sparse with dense on {len(records)} pictures, in turns")
    return compare_dense(encoder, source, records, job.readers)


def _done(
    ledger: Ledger, encoder: Encoder, job: Job, share: Share, how: How, parts: list[int], total: int,
    versus: dict[str, Any] | None, say: Callable[[str], Any],
) -> dict[str, Any]:  # fmt: skip
    """Do the parts; the summary, also after an error or an interrupt, which it does not hide."""
    run, began = Tally(), time.perf_counter()
    try:
        with closing(_driven(job, encoder, share.of(parts), how)) as tallies:
            for tally in watched(tallies, total, say):
                run.add(tally)
        share.wait()
    finally:
        if share.leads:
            quarantine = ledger.write_quarantine()
            seconds = time.perf_counter() - began
            found = summary_of(ledger, encoder, run, seconds, quarantine, versus, share.count)
            write_json(ledger.folder / SUMMARY_FILE, found)
            write_page(ledger.folder, found, quarantine)
        else:
            found = {}
    return found


def _driven(job: Job, encoder: Encoder, parts: list[int], how: How) -> Generator[Tally, None, None]:
    """The counts of the parts, by the driver that was asked for."""
    if how.ray is not None and parts:
        yield from run_on_ray(job, parts, how.ray, how.actors)
    else:
        yield from Worker(job, encoder).do(parts)
