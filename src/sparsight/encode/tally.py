"""Counts of what was encoded: of a part, and added up."""

from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any, Self


@dataclass
class Tally:
    """How much, and how."""

    pictures: int = 0  # that have a row
    tokens: int = 0  # patch tokens of these
    dense: int = 0  # pictures in which no layer ran sparsely
    grids: dict[str, int] = field(default_factory=dict)  # "rows x columns" -> pictures
    # Where it depends on the picture: method -> percent of its tokens or windows kept -> pictures
    kept: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # id -> reason
    seconds: float = 0.0  # that the part took

    def add(self, other: "Tally") -> None:
        """Sum up."""
        self.pictures += other.pictures
        self.tokens += other.tokens
        self.dense += other.dense
        self.seconds += other.seconds
        self.left_out |= other.left_out
        _add(self.grids, other.grids)
        for method, counts in other.kept.items():
            _add(self.kept.setdefault(method, {}), counts)

    def count(self, grid: tuple[int, int], dense: bool, kept: dict[str, float]) -> None:
        """One picture more."""
        percent = {method: {f"{share:.0%}": 1} for method, share in kept.items()}
        self.add(Tally(1, grid[0] * grid[1], int(dense), {f"{grid[0]}x{grid[1]}": 1}, percent))

    def spread(self) -> dict[str, dict[str, int]]:
        """For each method the least, the middle and the most, in percent, that a picture kept."""
        found = {}
        for method, counts in self.kept.items():
            rising = sorted((int(key.rstrip("%")), count) for key, count in counts.items())
            up_to = list(accumulate(count for _, count in rising))
            middle = next(
                share for (share, _), n in zip(rising, up_to, strict=True) if 2 * n >= up_to[-1]
            )
            found[method] = {"min": rising[0][0], "median": middle, "max": rising[-1][0]}
        return found

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Of plain data."""
        return cls(**data)


def _add(counts: dict[str, int], more: dict[str, int]) -> None:
    for key, count in more.items():
        counts[key] = counts.get(key, 0) + count
