"""A chart as plotly draws it: plain dictionaries, so that of plotly only the script is needed."""

from dataclasses import replace
from typing import Any

from sparsight.report.chart import COLOURS, Chart, Series

DASHES = ("solid", "dash", "dot", "dashdot")
DRAWN = 2_000  # points of one series
FEW = 12  # ticks along an axis
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "triangle-down")


def figure(chart: Chart) -> dict[str, Any]:
    """Data and layout; colours of text and background are left to the page, which is light or dark."""
    axis = {"automargin": True, "zeroline": False}
    layout: dict[str, Any] = {
        "xaxis": axis | {"title": {"text": chart.x}},
        "yaxis": axis | {"title": {"text": chart.y}},
        "barmode": "stack" if chart.stacked else "group",
        "showlegend": len(chart.series) > 1,
        "legend": {"orientation": "h", "y": -0.25, "yanchor": "top"},
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "hovermode": "closest",
        "shapes": [], "annotations": [],
    }  # fmt: skip
    if chart.by_category:
        layout["xaxis"]["type"] = "category"
    elif _few_whole(chart):
        layout["xaxis"]["dtick"] = 1  # there is no layer one and a half
    if chart.level:
        name, at = chart.level
        line = {"color": COLOURS[1], "dash": "dash", "width": 1.5}
        layout["shapes"].append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": at, "y1": at,
                                 "line": line})  # fmt: skip
        layout["annotations"].append({"xref": "paper", "x": 1, "y": at, "text": name, "showarrow": False,
                                      "xanchor": "right", "yanchor": "bottom"})  # fmt: skip
    for first, last in chart.boxes:
        square = {"x0": first - 0.5, "x1": last + 0.5, "y0": first - 0.5, "y1": last + 0.5}
        layout["shapes"].append({"type": "rect", "line": {"color": COLOURS[1], "width": 3}} | square)
    if chart.heat:
        layout["yaxis"]["scaleanchor"] = "x"
        layout["xaxis"] |= _ticks(chart.labels)
        layout["yaxis"] |= _ticks(chart.labels)
        return {"data": [_heat(chart)], "layout": layout}
    return {
        "data": [_trace(series, place) for place, series in enumerate(chart.series)],
        "layout": layout,
    }


def _few_whole(chart: Chart) -> bool:
    """Whether the places along x are whole numbers, few enough to name each."""
    places = [x for series in chart.series for x in series.x]
    if not places or not all(isinstance(x, int) for x in places):
        return False
    return max(places) - min(places) <= FEW


def _ticks(labels: tuple[str, ...]) -> dict[str, Any]:
    """Named places; few enough to be read."""
    step = -(-len(labels) // FEW)
    places = list(range(0, len(labels), step))
    return {"tickvals": places, "ticktext": [labels[place] for place in places]}


def _heat(chart: Chart) -> dict[str, Any]:
    names = [[f"layers {a} and {b}" for b in chart.labels] for a in chart.labels]
    return {
        "type": "heatmap", "z": [list(row) for row in chart.heat], "text": names,
        "colorscale": "Cividis", "zmin": 0, "zmax": 1,
        "hovertemplate": "%{text}: %{z:.2f}<extra></extra>",
    }  # fmt: skip


def _thinned(series: Series) -> Series:
    """At most so many points are drawn, evenly chosen, both ends among them; the data has them all."""
    n = len(series.x)
    if n <= DRAWN:
        return series
    places = [round(place * (n - 1) / (DRAWN - 1)) for place in range(DRAWN)]
    text = [series.text[place] for place in places] if series.text else []
    return replace(
        series, x=[series.x[p] for p in places], y=[series.y[p] for p in places], text=text
    )  # fmt: skip


def _trace(series: Series, place: int) -> dict[str, Any]:
    series = _thinned(series)
    number = place if series.colour is None else series.colour
    colour = COLOURS[number % len(COLOURS)]
    said = "%{text}<br>" if series.text else ""
    trace: dict[str, Any] = {
        "name": _plain(series.name), "x": series.x, "y": series.y,
        "text": list(map(_plain, series.text)),
        "hovertemplate": said + "%{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
    }  # fmt: skip
    if series.kind == "bar":
        return trace | {"type": "bar", "marker": {"color": colour}, "textposition": "none"}
    drawn = "lines" if len(series.x) > 60 else "lines+markers"
    return trace | {
        "type": "scatter", "mode": "markers" if series.kind == "points" else drawn,
        "marker": {"color": colour, "symbol": SYMBOLS[number % len(SYMBOLS)], "size": 9},
        "line": {"color": colour, "dash": DASHES[number % len(DASHES)]},
    }  # fmt: skip


def _plain(text: str) -> str:
    """Plotly reads a few tags in its texts; names are shown as they are."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
