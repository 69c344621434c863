"""One self-contained page: nothing is fetched, everything a run said is in it."""

import json
from pathlib import Path
from typing import Any

from sparsight.errors import SparsightError
from sparsight.files import check_place, check_writable, write_json, write_text
from sparsight.report.answer import answer_of
from sparsight.report.chart import Chart
from sparsight.report.charts import charts_of
from sparsight.report.data import Run, read_run
from sparsight.report.pictures import panels
from sparsight.report.plotly import figure

REPORT_FILE = "report.html"


def write_report(place: Path, figures: Path | None = None, data: Path | None = None) -> Path:
    """Write the page of a run folder into it, of a comparison beside it; returns its path.

    `figures` is a folder for every chart as PNG and SVG, `data` a file for all of it as JSON.  What a
    run lacks, because it was interrupted or is of another version, is said in the page.
    """
    run = read_run(place)
    if figures is not None:
        check_writable(figures)
    if data is not None:
        check_place(data)
    path = place / REPORT_FILE if place.is_dir() else place.with_suffix(".html")
    try:
        charts = charts_of(run)
        text = page(run, charts)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise SparsightError(
            f"a result in {place} is not what this version writes ({type(error).__name__}: {error}): "
            "make it anew, or remove it"
        ) from error
    write_text(path, text)
    if data is not None:
        write_json(data, as_json(run, charts))
    if figures is not None:
        from sparsight.report.figures import draw_figures

        draw_figures(charts, figures)
    return path


def page(run: Run, charts: list[Chart]) -> str:
    """The page as text."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise SparsightError(
            f"the report needs {error.name}: pip install {error.name}; the results are in the run"
        ) from None
    environment = Environment(
        loader=PackageLoader("sparsight.report", "template"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    answer = answer_of(run)
    text = environment.get_template("report.html").render(
        answer=answer, run=run, charts=charts,
        pictures=[(look, panels(look)) for look in run.looks],
        plots=script_json({chart.name: figure(chart) for chart in charts}),
        data=script_json(as_json(run, charts)),
        plotly=get_plotlyjs(),
    )  # fmt: skip
    return text.encode("utf-8", "replace").decode("utf-8")  # names of files need not be Unicode


def as_json(run: Run, charts: list[Chart]) -> dict[str, Any]:
    """Everything in the page but the pictures."""
    return {
        "plan": run.plan, "command": run.command, "missing": run.missing, "tasks": run.tasks,
        "exports": run.exports,
        "pictures": [{k: v for k, v in look.items() if k != "maps"} for look in run.looks],
        "charts": {chart.name: chart.as_json() for chart in charts},
    }  # fmt: skip


def script_json(value: Any) -> str:
    """JSON that may stand in a <script>: no text in it can end the element or begin markup."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
