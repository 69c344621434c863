"""One progress bar for every stage: on the terminal if there is one (and rich), silent otherwise."""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items, showing how far it is."""
    if find_spec("rich") is None:  # a server has none
        return iter(items)
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    return iter(
        rich_track(
            items, what, total=total, console=console, disable=not console.is_terminal, transient=True
        )
    )
