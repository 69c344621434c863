"""The pictures of docs/, drawn from benchmarks/results/ by render.py."""

import json
from pathlib import Path

from benchmarks.tables.speed import exponent


def scaling(result: Path, picture: Path) -> None:
    """Latency of a module over tokens, both logarithmic, with the exponents."""
    from matplotlib.figure import Figure

    from sparsight.report.chart import COLOURS, MARKERS
    from sparsight.report.figures import save_figure

    found = json.loads(result.read_text())
    rows, start = found["rows"], found["protocol"]["fitted_from"]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for place, arm in enumerate(dict.fromkeys(row["arm"] for row in rows)):
        own = [row for row in rows if row["arm"] == arm and "latency_ms" in row]
        axes.plot(
            [row["tokens"] for row in own], [row["latency_ms"] / 1e3 for row in own],
            color=COLOURS[place], marker=MARKERS[place],
            label=f"{arm}: exponent {exponent(rows, arm, start):.2f}",
        )  # fmt: skip
    counts = sorted({row["tokens"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [f"{n // 1024} K" for n in counts])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g} s")
    axes.set(xlabel="tokens", ylabel="latency of one ViT-S attention module")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, picture)
