"""Sets of pictures for the stages: held in memory, spread evenly, and without those that are bad."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from sparsight.errors import ImagesError

if TYPE_CHECKING:
    from torch import Tensor  # noqa: F401  (in the alias below)

HELD_BYTES = 2 << 30
REASONS = 6  # that are named; the rest is counted together

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)


class Items(Protocol[Item_co]):
    """A count, and item i.  An unreadable one raises ImagesError when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item_co: ...


# What the stages need of images: pictures as normalised (channels, height, width) tensors.
Images = Items["Tensor"]


def named(images: Items[Item], place: int) -> str:
    """What to call a picture: as the set calls it, or by its place."""
    name_of = getattr(images, "name_of", None)
    return name_of(place) if name_of is not None else f"picture {place}"


def left_out(skipped: Iterable[str], images: object = None) -> str:
    """What was left out, counted by reason: "18: 12 .heic (...), 4 truncated, 2 hidden"; or nothing.

    `skipped` are messages of ImagesError; `images` is the set, which knows what else was in its folder.
    """
    counted: Counter[str] = Counter(getattr(images, "passed", None) or {})
    for said in skipped:  # "cannot read NAME: REASON (MORE)", or of labels "NAME is REASON"
        verb = next((verb for verb in (": ", " is ", " has ") if verb in said), "")
        reason = said.partition(verb)[2] if verb else said
        counted[(verb.strip(" :") + " " + reason.partition(" (")[0]).strip()] += 1
    if not counted.total():
        return ""
    ordered = counted.most_common()
    parts = [f"{count} {reason}" for reason, count in ordered[:REASONS] if count]
    if rest := sum(count for _, count in ordered[REASONS:]):
        parts.append(f"{rest} others")
    return f"{counted.total()}: {', '.join(parts)}"


class Held(Generic[Item]):
    """Items that are read once and kept, as far as the memory for it goes; the others are read again."""

    def __init__(self, images: Items[Item], budget_bytes: int = HELD_BYTES) -> None:
        self.images, self.left = images, budget_bytes
        self.kept: dict[int, Item | ImagesError] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        if index not in self.kept:
            try:
                found: Item | ImagesError = self.images[index]
            except ImagesError as error:
                found = error
            size = (
                getattr(found, "nbytes", 0)
                if not isinstance(found, tuple)
                else sum(getattr(part, "nbytes", 0) for part in found)
            )
            if size <= self.left:
                self.left -= size
                self.kept[index] = found
        else:
            found = self.kept[index]
        if isinstance(found, ImagesError):
            raise found
        return found

    def name_of(self, index: int) -> str:
        """What the set calls it."""
        return named(self.images, index)


class Reader(Generic[Item]):
    """Reads pictures (with labels or without), passing over unreadable ones; `skipped` says which."""

    def __init__(self, images: Items[Item]) -> None:
        if len(images) == 0:
            raise ImagesError("there is no image")
        self.images, self.skipped = images, dict[int, str]()

    def read(self, index: int) -> Item:
        """Picture `index`, or the next readable one after it (going round)."""
        total = len(self.images)
        found = self._first((index + step) % total for step in range(total))
        if found is None:
            raise ImagesError(f"none of the {total} images can be read: {self.skipped[0]}")
        return found[1]

    def spread(self, count: int) -> Iterator[Item]:
        """Up to `count` readable pictures, evenly over the whole set, each once."""
        return (picture for _, picture in self.placed(count))

    def placed(self, count: int) -> Iterator[tuple[int, Item]]:
        """As `spread`, each picture with its place in the set.

        One that cannot be read is replaced by the next that can, as far as the next of the even places.
        """
        total = len(self.images)
        count = min(count, total)
        given = 0
        for number in range(count):
            found = self._first(range(number * total // count, (number + 1) * total // count))
            if found is not None:
                given += 1
                yield found
        if not given:
            raise ImagesError(f"no image could be read: {next(iter(self.skipped.values()))}")

    def _first(self, places: Iterable[int]) -> tuple[int, Item] | None:
        """The first of `places` that can be read, and its item."""
        for place in places:
            if place in self.skipped:
                continue
            try:
                return place, self.images[place]
            except ImagesError as error:
                self.skipped[place] = str(error)
        return None
