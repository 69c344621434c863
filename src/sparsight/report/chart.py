"""A chart as plain data, before plotly.py draws it for the page or figures.py on paper."""

from dataclasses import dataclass, field
from typing import Any, Literal

# Okabe and Ito's colours, which colour-blind readers can tell apart, and a marker of its own for each.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B8A000")
MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Series:
    """One line, set of bars or set of points."""

    name: str
    x: list[Any]
    y: list[float | None]
    kind: Literal["line", "bar", "points"] = "line"
    text: list[str] = field(default_factory=list)  # what a point says of itself
    colour: int | None = None  # its place in COLOURS, if it belongs to another series


@dataclass(frozen=True)
class Chart:
    """Title and axes with units, what to see in it, and the data."""

    name: str  # of its file, and its place in the page
    title: str
    see: str
    x: str
    y: str
    series: tuple[Series, ...] = ()
    heat: tuple[tuple[float, ...], ...] = ()  # instead of series: a square of shares, by layer
    labels: tuple[str, ...] = ()  # of the rows and columns of `heat`
    boxes: tuple[tuple[int, int], ...] = ()  # first and last row of squares drawn into `heat`
    level: tuple[str, float] | None = None  # a horizontal line and its name
    stacked: bool = False
    by_category: bool = False  # x holds names, not numbers

    def as_json(self) -> dict[str, Any]:
        """Everything in it, for the page's data and for `--json`."""
        return {
            "title": self.title, "x": self.x, "y": self.y, "heat": self.heat, "labels": self.labels,
            "groups": self.boxes, "level": self.level,
            "series": [{"name": s.name, "x": s.x, "y": s.y, "text": s.text} for s in self.series],
        }  # fmt: skip
