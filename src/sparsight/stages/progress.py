"""How far a stage is: told to the caller's `progress`, or else shown as a bar on the terminal."""

import inspect
from collections.abc import Callable, Generator, Iterable
from contextvars import ContextVar
from functools import wraps
from importlib.util import find_spec
from typing import Any, ParamSpec, TypeVar

Progress = Callable[[str, int, int], Any]  # of what is done, how much, and of how much (0: not known)
Item = TypeVar("Item")
Given = ParamSpec("Given")
Answer = TypeVar("Answer")

_told: ContextVar[Progress | None] = ContextVar("told", default=None)


def followed(function: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """`function`, whose argument `progress` is told how far each of its stages is."""

    @wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
        given = inspect.signature(function).bind(*args, **kwargs).arguments.get("progress")
        if given is None:  # what calls it may be followed
            return function(*args, **kwargs)
        before = _told.set(given)
        try:
            return function(*args, **kwargs)
        finally:
            _told.reset(before)

    return call


def told() -> Progress | None:
    """Who is to be told, if anybody."""
    return _told.get()


def track(items: Iterable[Item], what: str, total: int | None) -> Generator[Item, None, None]:
    """Yield the items of a stage named `what`, saying how far it is: of `total`, if that is known."""
    say = told()  # now: the items may be taken by another thread
    return _telling(items, what, total, say) if say else _showing(items, what, total)


def _telling(
    items: Iterable[Item], what: str, total: int | None, say: Progress
) -> Generator[Item, None, None]:
    say(what, 0, total or 0)
    done = 0
    for done, item in enumerate(items, 1):
        yield item
        if total is None or done < total:
            say(what, done, total or 0)
    say(what, total or done, total or done)  # also where some were left out


def _showing(items: Iterable[Item], what: str, total: int | None) -> Generator[Item, None, None]:
    """On the terminal if there is one (and rich, which a server has not)."""
    if find_spec("rich") is None:
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as bar

    console = Console(stderr=True)
    hidden = not console.is_terminal
    yield from bar(items, what, total=total, console=console, disable=hidden, transient=True)
