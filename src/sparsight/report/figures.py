"""The same charts as PNG and SVG, for papers."""

from pathlib import Path
from typing import Any

from sparsight.files import write_atomically
from sparsight.report.chart import COLOURS, MARKERS, Chart

DASHES = ("-", "--", ":", "-.")
MANY = 6  # names side by side below an axis


def draw_figures(charts: list[Chart], folder: Path) -> None:
    """Write `folder`/NAME.png and .svg of every chart."""
    from matplotlib.figure import Figure

    for chart in charts:
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        _draw(chart, figure.add_subplot(), figure)
        for kind in ("png", "svg"):
            save_figure(figure, folder / f"{chart.name}.{kind}")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure; the suffix says which kind.  The same figures give the same file."""
    from matplotlib import rc_context

    kind = path.suffix.removeprefix(".")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with rc_context({"svg.hashsalt": "sparsight"}):  # else its names are drawn by chance
        write_atomically(path, lambda new: figure.savefig(new, format=kind, metadata=undated, dpi=200))


def _draw(chart: Chart, axes: Any, figure: Any) -> None:
    axes.set(xlabel=chart.x, ylabel=chart.y)
    axes.set_title(chart.title, fontsize=10)
    if chart.heat:
        shown = axes.imshow(chart.heat, vmin=0, vmax=1, cmap="cividis", origin="lower")
        figure.colorbar(shown)
        axes.set_xticks(range(len(chart.labels)), chart.labels, fontsize=7)
        axes.set_yticks(range(len(chart.labels)), chart.labels, fontsize=7)
        for first, last in chart.boxes:
            x, y = [first - 0.5, last + 0.5], [first - 0.5, last + 0.5]
            axes.plot([x[0], x[1], x[1], x[0], x[0]], [y[0], y[0], y[1], y[1], y[0]], color=COLOURS[1])
        return
    below: dict[Any, float] = {}
    for place, series in enumerate(chart.series):
        number = place if series.colour is None else series.colour
        colour = COLOURS[number % len(COLOURS)]
        if series.kind == "bar":
            start = [below.get(x, 0.0) for x in series.x] if chart.stacked else 0
            axes.bar(series.x, series.y, bottom=start, color=colour, label=series.name)
            for x, height in zip(series.x, series.y, strict=True):
                below[x] = below.get(x, 0.0) + (height or 0.0)
        else:
            line = "none" if series.kind == "points" else DASHES[number % len(DASHES)]
            few = len(series.x) <= 60 or series.kind == "points"
            mark = MARKERS[number % len(MARKERS)] if few else None
            axes.plot(series.x, series.y, color=colour, linestyle=line, marker=mark, label=series.name)
    if chart.level:
        axes.axhline(chart.level[1], color=COLOURS[1], linestyle="--", linewidth=1, label=chart.level[0])
    if len(chart.series) > 1 or chart.level:
        axes.legend(fontsize=8)
    if chart.by_category and len(axes.get_xticks()) > MANY:
        axes.tick_params("x", rotation=45)
    axes.grid(alpha=0.3)
