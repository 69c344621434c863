"""Watching it: pictures and tokens a second, how many ran dense, how many were left out."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sparsight.encode.tally import Tally
from sparsight.stages.progress import told

SAY_EVERY_S = 30.0  # where there is no terminal to draw a bar on


def watched(
    tallies: Iterable[Tally], total: int, say: Callable[[str], Any] = lambda text: None
) -> Iterator[Tally]:
    """The tallies, shown while they come: `total` is how many pictures there are to do."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console, progress = Console(stderr=True), told()
    bar = Progress(
        TextColumn("Encoding"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
        TimeRemainingColumn(), console=console, transient=True,
        disable=progress is not None or not console.is_terminal,
    )  # fmt: skip
    so_far, began = Tally(), time.perf_counter()
    said = began
    if progress:
        progress("Encoding", 0, total)
    with bar:
        task = bar.add_task("", total=total)
        for tally in tallies:
            so_far.add(tally)
            now = time.perf_counter()
            seen = so_far.pictures + len(so_far.left_out)
            bar.update(task, completed=seen, description=rates(so_far, now - began))
            if progress:
                progress("Encoding", seen, total)
            elif not console.is_terminal and now - said > SAY_EVERY_S:
                say(f"{seen:,} of {total:,} pictures; {rates(so_far, now - began)}")
                said = now
            yield tally


def rates(tally: Tally, seconds: float) -> str:
    """In words."""
    seconds = max(seconds, 1e-9)
    dense = tally.dense / max(1, tally.pictures)
    return (
        f"{tally.pictures / seconds:.1f} pictures/s, {tally.tokens / seconds:,.0f} tokens/s, "
        f"{100 * dense:.0f} % ran dense, {len(tally.left_out):,} left out"
    )
