"""A look at all masks before any work: are they white on black, and is there something to tell apart."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sparsight.errors import LabelsError
from sparsight.tasks.labels import LabelFile, LabelledFiles
from sparsight.tasks.masks import entries_of, grey_of, objects
from sparsight.tasks.survey import areas, counted, each
from sparsight.tasks.table import VOID, Table

EDGES = 0.1  # of the pixels may be grey without a word, as softened edges are
FLAT = 0.01  # of the pixels may be in areas of one grey; beyond, it is no edge but says something
FEW = 16  # levels of grey: numbers of something; soft masks that were enlarged have more


@dataclass
class Masks:
    """What the masks of one split hold."""

    split: str
    pixels: Counter[str] = field(default_factory=Counter)  # object, background, void
    empty: list[Path] = field(default_factory=list)
    full: list[Path] = field(default_factory=list)
    files: int = 0
    grey: Counter[int] = field(default_factory=Counter)  # of masks without a palette or table
    whites: dict[int, Path] = field(default_factory=dict)  # what is white, and the first such file
    middle: int = 0  # pixels neither black nor white
    flat: Counter[int] = field(default_factory=Counter)  # of them, in areas of one level
    exact: bool = True  # no lossy file among them

    def shares(self) -> dict[str, float]:
        """Of all pixels."""
        total = self.pixels.total()
        return {kind: self.pixels[kind] / total for kind in ("void", "background", "object")}


def look(samples: LabelledFiles, most: int | None, split: str, table: Table | None) -> Masks:
    """Count the pixels in the masks of one split; refused if nothing says what is an object."""
    seen = Masks(split)
    read = objects(table)

    def told(file: LabelFile) -> np.ndarray:
        if table is None and entries_of(file) is None:
            _grey(seen, file)
        return read(file)

    for path, numbers in each(samples, most, told):
        inside, void = int((numbers > 0).sum()), int((numbers == VOID).sum())
        outside = numbers.size - inside - void
        seen.files += 1
        seen.pixels += Counter(object=inside, void=void, background=outside)
        if not inside:
            seen.empty.append(path)
        elif not outside:
            seen.full.append(path)
    _check(seen)
    return seen


def _grey(seen: Masks, file: LabelFile) -> None:
    """Add the levels of a grey mask."""
    levels, white = grey_of(file)
    values, counts = counted(levels)
    slack = white // 10 if file.lossy else 0
    if values[-1] > slack:
        seen.whites.setdefault(white, file.path)
    seen.grey.update(dict(zip(values, counts, strict=True)))
    seen.middle += sum(n for k, n in zip(values, counts, strict=True) if slack < k < white - slack)
    for level, count in zip(*counted(areas(levels)), strict=True):
        if slack < level < white - slack:
            seen.flat[level] += count
    seen.exact &= not file.lossy


def _check(seen: Masks) -> None:
    levels = sorted(seen.grey)
    if len(seen.whites) > 1:
        one, two = (seen.whites[white] for white in sorted(seen.whites)[:2])
        raise LabelsError(
            f"white is {min(seen.whites)} in {one} and {max(seen.whites)} in {two.name}: save all masks "
            "alike, or give --table of what their numbers mean"
        )
    if seen.exact and seen.flat.total() > FLAT * seen.grey.total():
        has_white = any(2 * level > white for white in seen.whites for level in levels)
        if len(seen.flat) <= FEW or not has_white:
            shown = ", ".join(map(str, levels[:4])) + (", ..." if len(levels) > 4 else "")
            first = next(iter(seen.whites.values()))
            raise LabelsError(
                f"the masks of {seen.split} are not white on black, as {first}: they have the numbers "
                f"{shown}; give --table of lines NUMBER CLASS, with CLASS 0 for background, or void"
            )
    if len(seen.empty) == seen.files:
        raise LabelsError(
            f"every mask in {seen.split} is empty, the first: {seen.empty[0]}; wanted is white on black"
        )


def something_to_tell(seen: Masks) -> None:
    """Refuse masks that are all object: any answer of a probe would be right."""
    if not seen.pixels["background"]:
        raise LabelsError(
            f"every mask in {seen.split} is all object, the first: {seen.full[0]}: there is nothing to "
            "tell apart"
        )


def notes(found: list[Masks]) -> list[str]:
    """What is to be known before figures on these masks are believed."""
    said = []
    for seen in found:
        if seen.full:
            said.append(
                f"{len(seen.full)} masks of {seen.split} are all object, the first: {seen.full[0].name}"
            )
        grey = seen.middle / max(1, seen.grey.total())
        if grey > EDGES:
            said.append(
                f"{100 * grey:.0f} % of the pixels in the masks of {seen.split} are grey: those "
                "more than half white count as object"
            )
        if seen.shares()["void"] > 0.5:
            said.append(f"more than half of the pixels in the masks of {seen.split} are void")
    return said
