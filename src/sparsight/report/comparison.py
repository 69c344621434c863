"""The picture of a comparison: quality against speedup, one line for each method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsight.errors import SparsightError
from sparsight.report.chart import COLOURS, MARKERS
from sparsight.report.figures import save_figure


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the rows of `stages.compare` as a picture; the suffix (.svg, .png, .pdf) says which kind."""
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise SparsightError(f"{path.name}: a picture is .svg, .png or .pdf")
    from matplotlib.figure import Figure

    rows = result["rows"]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    lines = list(dict.fromkeys((row["method"], row["trained"]) for row in rows[1:]))
    names = list(dict.fromkeys(method for method, _ in lines))
    for method, trained in lines:
        own = [row for row in rows if (row["method"], row["trained"]) == (method, trained)]
        own.sort(key=lambda row: row["speedup"])
        place = names.index(method) % len(COLOURS)
        axes.plot(
            [row["speedup"] for row in own], [row["quality"] for row in own],
            color=COLOURS[place], marker=MARKERS[place], linestyle="-" if trained else "--",
            label=method + (" (trained)" if trained else ""), fillstyle="full" if trained else "none",
        )  # fmt: skip
    axes.axhline(rows[0]["quality"], color="#777777", linewidth=0.8)
    axes.annotate("dense", (1.0, rows[0]["quality"]), color="#555555", va="bottom")
    protocol = result["protocol"]
    axes.set_xlabel("speedup over the dense model of the same run (times)")
    axes.set_ylabel(rows[0]["quality_name"])
    axes.set_title(
        f"{protocol['resolution']} px, {protocol['dtype']}, batch 1, {protocol['machine']}", fontsize=9
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)
