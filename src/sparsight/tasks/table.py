"""A table of what the numbers or colours in label files mean, as text, CSV or JSON.

    7 0            a number and its class           {"7": 0, "8": "void"}
    128 0 0 3      red, green, blue and a class     {"#800000": 3}
    #800000 void   the same, and pixels that do not count
    Road,128,64,128    names instead of classes, in their order

Fields stand between commas, semicolons, tabs or spaces; a first line without a number is a heading.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import LabelsError

VOID = -1  # of a label map, whatever number the files have for it
UNKNOWN = -2  # of what a table does not have
VOID_WORDS = frozenset(("void", "ignore", "ignored", "unlabeled", "unlabelled", "-1", "255"))
HOW = "lines of NUMBER CLASS, R G B CLASS or #RRGGBB CLASS, where CLASS may be void"
MOST_CLASSES = 10_000  # a larger number is none of a class
HEX = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True, eq=False)
class Table:
    """Class numbers (or VOID) by number, or by colour packed into one number (`packed`)."""

    keys: NDArray  # (n,) sorted
    meanings: NDArray  # (n,)
    colours: bool

    @property
    def classes(self) -> int:
        """The number of classes: one more than the largest."""
        return max(2, int(self.meanings.max()) + 1)

    def look_up(self, values: NDArray) -> NDArray:
        """The class of every value, VOID or UNKNOWN."""
        place = np.searchsorted(self.keys, values).clip(0, len(self.keys) - 1)
        return np.where(self.keys[place] == values, self.meanings[place], UNKNOWN)


def table_of(meanings: dict[int, int], colours: bool = False) -> Table:
    """A table from a dictionary."""
    keys = sorted(meanings)
    return Table(np.array(keys), np.array([meanings[key] for key in keys]), colours)


def packed(colours: NDArray) -> NDArray:
    """(..., 3) bytes of red, green and blue as one number each."""
    red, green, blue = (colours[..., band].astype(np.int64) for band in range(3))
    return red << 16 | green << 8 | blue


def read_table(file: Path) -> Table:
    """The table in a file; raises LabelsError that names the first line it cannot use."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = list(_json_rows(json.loads(text)) if file.suffix.lower() == ".json" else _rows(text))
    except (OSError, ValueError, RecursionError) as error:
        raise LabelsError(f"cannot read the table {file}: {error}") from None
    found: dict[int, int | str] = {}
    kinds = set()
    for row in rows:
        parsed = _parsed(row)
        if parsed is None:
            raise LabelsError(f"the table {file} has {' '.join(row)!r}: wanted are {HOW}")
        kind, key, meaning = parsed
        kinds.add(kind)
        if found.setdefault(key, meaning) != meaning:
            raise LabelsError(f"the table {file} has two meanings for {' '.join(row)!r}")
    if len(kinds) != 1:
        what = "both numbers and colours" if kinds else "nothing"
        raise LabelsError(f"the table {file} holds {what}: wanted are {HOW}")
    return table_of(_numbered(found, file), kinds == {"colour"})


def _rows(text: str) -> Iterator[list[str]]:
    """The fields of each line that says something."""
    lines = [line.strip() for line in text.splitlines()]
    rows = [
        [field.strip() for field in (re.split("[,;\t]", line) if re.search("[,;\t]", line) else [line])]
        for line in lines if line and (not line.startswith("#") or HEX.match(line))
    ]  # fmt: skip
    rows = [[part for field in row for part in _parts(field, alone=len(row) == 1)] for row in rows]
    is_heading = rows and not any(_is_number(field) or HEX.fullmatch(field) for field in rows[0])
    yield from rows[1:] if is_heading else rows


def _json_rows(data: Any) -> Iterator[list[str]]:
    """The same of JSON: a dictionary, or a list of lists."""
    rows = data.items() if isinstance(data, dict) else data
    if not isinstance(data, dict | list) or not all(isinstance(row, list | tuple) for row in rows):
        raise ValueError('wanted is {"#800000": 3, ...}')
    for row in rows:
        fields = [part for field in row for part in (field if isinstance(field, list) else [field])]
        yield [part for field in fields for part in _parts(str(field).strip(" ()[]"), alone=False)]


def _parts(field: str, alone: bool) -> list[str]:
    """A field, or its parts if it is `alone` in its line or holds several numbers."""
    parts = field.replace(",", " ").split() if alone or re.fullmatch(r"[\d\s,-]+", field) else [field]
    return [part for part in parts if part]


def _parsed(row: Sequence[str]) -> tuple[str, int, int | str] | None:
    """ "number" or "colour", which, and the class: its number, or the name that stands for it."""
    at = next((i for i, field in enumerate(row) if _is_number(field) or HEX.fullmatch(field)), None)
    if at is None:
        return None
    name, rest = " ".join(row[:at]), list(row[at:])
    if HEX.fullmatch(rest[0]):
        kind, key, rest = "colour", int(rest[0][1:], 16), rest[1:]
    elif len(rest) >= 3 and all(_is_number(field) for field in rest[:3]):
        colour = [int(field) for field in rest[:3]]
        if not all(0 <= band <= 255 for band in colour):
            return None
        kind, key, rest = "colour", int(packed(np.array(colour))), rest[3:]
    else:
        kind, key, rest = "number", int(rest[0]), rest[1:]
    if rest and _is_number(rest[0]):  # a name may stand beside it
        number = VOID if rest[0] in VOID_WORDS else int(rest[0])
        return (kind, key, number) if VOID <= number < MOST_CLASSES else None
    meaning = " ".join(rest) or name
    if meaning.lower() in VOID_WORDS:
        return kind, key, VOID
    is_name = any(letter.isalpha() for letter in meaning) and not any(map(_is_number, rest))
    return (kind, key, meaning) if is_name else None


def _numbered(found: dict[int, int | str], file: Path) -> dict[int, int]:
    """Names as numbers, in their order; never both in one file."""
    names = [meaning for meaning in found.values() if isinstance(meaning, str)]
    if names and any(isinstance(meaning, int) and meaning != VOID for meaning in found.values()):
        raise LabelsError(f"the table {file} has both names and numbers of classes, as {names[0]!r}")
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return {key: order[m] if isinstance(m, str) else m for key, m in found.items()}


def _is_number(field: str) -> bool:
    return bool(re.fullmatch(r"-?\d{1,9}", field))
