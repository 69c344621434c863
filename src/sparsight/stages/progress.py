"""One progress bar for every stage: on the terminal if there is one, silent otherwise."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items, showing how far it is."""
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    return iter(
        rich_track(
            items, what, total=total, console=console, disable=not console.is_terminal, transient=True
        )
    )
