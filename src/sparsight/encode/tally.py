"""Counts of what was encoded: of a part, and added up."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass
class Tally:
    """How much, and how."""

    pictures: int = 0  # that have a row
    tokens: int = 0  # patch tokens of these
    dense: int = 0  # pictures in which no layer ran sparsely
    grids: dict[str, int] = field(default_factory=dict)  # "rows x columns" -> pictures
    left_out: dict[str, str] = field(default_factory=dict)  # id -> reason
    seconds: float = 0.0  # that the part took

    def add(self, other: "Tally") -> None:
        """Sum up."""
        self.pictures += other.pictures
        self.tokens += other.tokens
        self.dense += other.dense
        self.seconds += other.seconds
        self.left_out |= other.left_out
        for grid, count in other.grids.items():
            self.grids[grid] = self.grids.get(grid, 0) + count

    def count(self, grid: tuple[int, int], pictures: int, dense: bool) -> None:
        """Pictures of one grid more."""
        name = f"{grid[0]}x{grid[1]}"
        self.add(Tally(pictures, pictures * grid[0] * grid[1], pictures * dense, {name: pictures}))

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Of plain data."""
        return cls(**data)
