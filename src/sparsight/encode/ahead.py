"""An iterator that works ahead in a thread, by a few items, while its user works on the last one."""

from collections.abc import Generator, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
POLL_S = 0.1  # how soon a thread hears that nobody waits for it any more


def ahead(items: Iterator[Item], places: int = 1) -> Generator[Item, None, None]:
    """The items of `items`, which is run in a thread that is at most `places` items ahead.

    What it raises is raised here.  However its user ends, the thread has ended before: Python must not
    end while one is decoding.
    """
    ready: Queue[tuple[Any, BaseException | None, bool]] = Queue(places)
    stopped = Event()

    def put(what: tuple[Any, BaseException | None, bool]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(what, timeout=POLL_S)
                return True
            except Full:
                continue
        return False

    def fill() -> None:
        try:
            for item in items:
                if not put((item, None, False)):
                    return
            put((None, None, True))
        except BaseException as error:
            put((None, error, True))

    thread = Thread(target=fill, name="reading ahead")
    thread.start()
    try:
        while True:
            try:
                item, error, last = ready.get(timeout=POLL_S)
            except Empty:
                continue
            if error is not None:
                raise error
            if last:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
