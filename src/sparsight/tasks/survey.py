"""A look at all labels before any work: how much of what there is, and whether they are what they seem.

Label files are read twice, here and with their pictures, which costs little beside running a model.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import ImagesError, LabelsError
from sparsight.stages.progress import track
from sparsight.tasks.labels import LabelFile, LabelledFiles
from sparsight.tasks.numbers import numbers_in, palette_of
from sparsight.tasks.table import HOW, VOID, Table

AREA = 3  # pixels: what is nowhere so wide and high is rather an edge between two others
SMALLEST = 16  # side of label maps in which an area can be asked for

Told = TypeVar("Told")


@dataclass
class Seen:
    """The numbers in the labels of one split."""

    split: str
    pixels: Counter[int] = field(default_factory=Counter)  # of each number; of VOID, if a table says so
    file_of: dict[int, Path] = field(default_factory=dict)  # the first with that number
    areas: set[int] = field(default_factory=set)  # numbers that are somewhere AREA wide and high
    has_room: bool = False  # for areas
    palettes: dict[int, tuple[tuple[int, ...], Path]] = field(default_factory=dict)

    def named(self, void: int) -> dict[int, int]:
        """Pixels of each number but void."""
        return {k: n for k, n in sorted(self.pixels.items()) if k not in (VOID, void)}

    def shares(self, void: int) -> dict[str, float]:
        """Of all pixels: void and each class."""
        total, named = self.pixels.total(), self.named(void)
        found = {"void": (total - sum(named.values())) / total}
        return found | {f"class {k}": n / total for k, n in named.items()}


def each(
    samples: LabelledFiles, most: int | None, told: Callable[[LabelFile], Told]
) -> Iterator[tuple[Path, Told]]:
    """What `told` finds in every label file that will be used and can be read."""
    total = len(samples)
    count = min(most or total, total)
    read = 0
    first: str | None = None
    for number in track(range(count), "Looking at labels", count):
        for place in range(number * total // count, (number + 1) * total // count):
            try:  # the next one, where one cannot be read
                found = samples.labels(place, told)
            except ImagesError as error:
                first = first or str(error)
                continue
            read += 1
            yield samples.pairs[place].labels, found
            break
    if not read:
        raise ImagesError(f"no labels could be read: {first}")


def look(samples: LabelledFiles, most: int | None, split: str, table: Table | None) -> Seen:
    """Count the numbers in the labels of one split; refused if palettes contradict each other."""
    seen = Seen(split)

    def told(file: LabelFile) -> tuple[NDArray, NDArray | None]:
        is_palette = file.image.mode == "P" and table is None
        return numbers_in(file, table), palette_of(file.image) if is_palette else None

    for path, (numbers, palette) in each(samples, most, told):
        values, counts = counted(numbers)
        for value, count in zip(values, counts, strict=True):
            seen.pixels[value] += count
            seen.file_of.setdefault(value, path)
        if min(numbers.shape) >= SMALLEST:
            seen.has_room = True
            seen.areas |= set(counted(areas(numbers))[0])
        if palette is None:
            continue
        for value in values:
            colour = tuple(palette[value].tolist())
            known, other = seen.palettes.setdefault(value, (colour, path))
            if known != colour:
                raise LabelsError(
                    f"the palettes of {other.name} and {path.name} have different colours at {value}: "
                    f"their entries are not classes; give --table of what colours mean: {HOW}"
                )
    return seen


def counted(numbers: NDArray) -> tuple[list[int], list[int]]:
    """The numbers there are, sorted, and how often."""
    if numbers.dtype in (np.uint8, np.uint16):  # far quicker than sorting
        counts = np.bincount(numbers.ravel())
        values = counts.nonzero()[0]
        return values.tolist(), counts[values].tolist()
    values, counts = np.unique(numbers, return_counts=True)
    return values.tolist(), counts.tolist()


def areas(numbers: NDArray) -> NDArray:
    """The numbers of the pixels that begin a square of AREA x AREA pixels of one number."""
    height, width = (max(0, side - AREA + 1) for side in numbers.shape)
    first = numbers[:height, :width]
    alike = np.ones(first.shape, bool)
    for row in range(AREA):
        for column in range(AREA):
            alike &= numbers[row : row + height, column : column + width] == first
    return first[alike]
