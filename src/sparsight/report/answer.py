"""What a run says first, in sentences: gained, lost, done, and how to do it again."""

from dataclasses import dataclass, field
from typing import Any

from sparsight.report import words
from sparsight.report.data import Run


@dataclass
class Answer:
    """The top of the page."""

    title: str
    headline: str
    facts: list[tuple[str, str, str]] = field(default_factory=list)  # figure, what it is, small print
    done: list[str] = field(default_factory=list)  # sentences
    layers: list[dict[str, Any]] = field(default_factory=list)  # rows of a table
    machine: str = ""
    notes: list[str] = field(default_factory=list)  # what the measurement says of itself
    tables: list[tuple[str, list[str], list[list[str]]]] = field(default_factory=list)


def answer_of(run: Run) -> Answer:
    """From what the run measured, the most direct first."""
    source = (run.plan or {}).get("source") or "a comparison"
    answer = Answer(f"Sparsight: {source}", "What was found so far; speed is not measured yet")
    for part in (_speed, _fidelity, _kept, _completion, _tables, _exports, _done):
        try:
            part(run, answer)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            what = (part.__doc__ or "").split(".")[0].lower()
            run.missing.append(f"Not told: {what} (the run is of another version: {error!r}).")
    return answer


def _speed(run: Run, answer: Answer) -> None:
    """Speed, memory and the machine."""
    protocol: dict[str, Any] = {}
    if measured := run.parts.get("measure"):
        protocol = measured["protocol"]
        last = measured["cases"][-2:]
        dense, sparse = last[0], last[1]
        ratio = dense["latency_ms"] / sparse["latency_ms"]
        where = f"{sparse['resolution']} px, batch {sparse['batch']}"
        answer.headline = _times(ratio)
        answer.facts.append(
            (f"{ratio:.2f}x", "speed of the dense model",
             f"{sparse['latency_ms']:.0f} ms instead of {dense['latency_ms']:.0f} ms; {where}")
        )  # fmt: skip
        if sparse.get("peak_memory_mb"):
            answer.facts.append(
                (f"{sparse['peak_memory_mb']:.0f} MB", "peak memory above the weights",
                 f"dense: {dense['peak_memory_mb']:.0f} MB, "
                 + ("so this is saved" if sparse["peak_memory_mb"] < dense["peak_memory_mb"]
                    else "so memory is a cost here"))
            )  # fmt: skip
    elif result := run.side_by_side:
        protocol = result["protocol"]
        answer.headline = f"{len(result['rows'])} settings side by side"
        _side_by_side(result["rows"], answer)
    if protocol:
        versions = ", ".join(f"{k} {v}" for k, v in protocol["versions"].items())
        answer.machine = (
            f"{protocol['machine']}; {protocol['dtype']}; {protocol['threads']} threads; {versions}; "
            f"{protocol.get('timing', '')}; baseline: {protocol.get('baseline', 'the dense model')}"
        )


def _times(ratio: float) -> str:
    if ratio < 1.02:
        return f"No gain here: {ratio:.2f} times the speed of the dense model"
    return f"{ratio:.2f} times as fast as the dense model"


NAMES = ("method", "name", "setting")  # what may say which row it is


def _side_by_side(rows: list[dict[str, Any]], answer: Answer) -> None:
    """The fastest rows, ours and a lower resolution, each with what it costs."""
    lower = [row for row in rows if row.get("method") == "lower-resolution"]
    ours = [row for row in rows if row not in lower]
    for what, own in (("the fastest setting", ours), ("a lower resolution, the fastest", lower)):
        if own:
            row = max(own, key=lambda row: row["speedup"])
            name = " ".join(str(row[key]) for key in NAMES if row.get(key))
            key = "quality" if "quality" in row else "miou"
            dense = row[key] + row["quality_lost"] if "quality_lost" in row else rows[0][key]
            answer.facts.append(
                (f"{row['speedup']:.2f}x", what,
                 f"{name}; {row.get('quality_name', 'quality')} {row[key]:.4f}, dense {dense:.4f}; "
                 f"features moved {100 * row['relative_error']:.1f} %, on the worst picture "
                 f"{100 * row['relative_error_worst']:.1f} %")
            )  # fmt: skip


def _fidelity(run: Run, answer: Answer) -> None:
    """How far the features of the pictures moved."""
    fidelity = (run.parts.get("measure") or {}).get("fidelity")
    if fidelity:
        answer.facts.append(
            (f"{100 * fidelity['relative_error']:.1f} %", "features moved, on average",
             f"worst of {fidelity['images']} pictures: {100 * fidelity['relative_error_worst']:.1f} %; "
             f"cosine {fidelity['cosine']:.4f}, worst {fidelity['cosine_worst']:.4f}")
        )  # fmt: skip
    elif not run.side_by_side:  # rows have their quality beside their speed
        answer.facts.append(("?", "quality", "not measured: sparsight measure RUN --images DIR"))


def _kept(run: Run, answer: Answer) -> None:
    """How much of each picture was kept, where that depends on the picture."""
    measured = run.parts.get("measure") or {}
    fidelity = measured.get("fidelity") or {}
    ends = [f"{row['latency_ms']:.0f} ms" for row in measured.get("by_count", ())]
    cost = f"; {ends[0]} for the picture that keeps least, {ends[1]} for the fullest" if ends else ""
    for method, share in fidelity.get("kept", {}).items():
        answer.facts.append(
            (f"{100 * share['median']:.0f} %", f"kept of the middle picture, {method}",
             f"{100 * share['min']:.0f} % to {100 * share['max']:.0f} % over {fidelity['images']} "
             f"pictures: the fuller, the more{cost}")
        )  # fmt: skip
    answer.notes = list(measured.get("notes", ()))


def _tables(run: Run, answer: Answer) -> None:
    """The tables of what was compared and judged."""
    if demo := run.parts.get("demo"):
        columns = {
            "": "name", "speedup": "speedup", "mIoU": "miou", "from dense, at worst": "miou_low",
            "at best": "miou_high", "feature error": "relative_error",
            "worst picture": "relative_error_worst",
        }  # fmt: skip
        answer.tables.append(_table("The demo, arm by arm", columns, demo["rows"]))
    for task, result in run.tasks.items():
        columns = {
            "": "metric", "dense": "dense", "sparse": "sparse", "difference": "difference",
            "95 % from": "low", "to": "high",
        }  # fmt: skip
        rows = [
            row | {"metric": f"{row['of']}: {row['metric']}" if "of" in row else row["metric"]}
            for row in [*result.get("details", ()), *result["scores"]]
        ]
        told = [f"labels of {split}: {text}" for split, text in result.get("labels", {}).items()]
        told += [
            f"{method} keeps {100 * share['min']:.0f} % to {100 * share['max']:.0f} % of a picture, "
            f"{100 * share['median']:.0f} % of the middle one"
            for method, share in result.get("kept", {}).items()
        ]
        answer.tables.append(_table("; ".join([f"Judged by {task}", *told]), columns, rows))
    for key, name in (("comparison", "All settings"), ("front", "The front of the search")):
        if result := run.parts.get(key):
            columns = {
                "": "method" if key == "comparison" else "point", "setting": "setting",
                "speedup": "speedup", "latency (ms)": "latency_ms", "quality": "quality",
                "feature error": "relative_error", "worst picture": "relative_error_worst",
            }  # fmt: skip
            answer.tables.append(_table(name, columns, result["rows"]))


def _exports(run: Run, answer: Answer) -> None:
    """Exported files beside the model in PyTorch."""
    columns = {
        "picture": "size", "batch": "batch", "error, same kept set": "error",
        "overlap of kept sets": "overlap", "cosine": "cosine", "worst token": "cosine_worst",
    }  # fmt: skip
    for name, found in run.exports.items():
        speed = found["speed"]
        told = f"Exported to {name} in {found['protocol']['precision']}, beside PyTorch"
        if "speedup" in speed:
            told += (
                f"; {speed['speedup']:.2f} times as fast as the dense model in the same engine at "
                f"{speed['size']}"
            )
        answer.tables.append(_table(told, columns, found["cases"]))
        if judged := found.get("task"):
            by = {
                "": "metric", "dense": "dense", "sparse in PyTorch": "pytorch",
                f"sparse in {name}": "engine",
            }  # fmt: skip
            told = f"{judged['task'].capitalize()} on {judged['images']} pictures of {judged['data']}"
            answer.tables.append(_table(told, by, judged["scores"]))


def _table(
    title: str, columns: dict[str, str], rows: list[dict[str, Any]]
) -> tuple[str, list[str], list[list[str]]]:
    """A table of some keys of the rows; what is not there is a dash."""

    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)

    return title, list(columns), [[cell(row.get(key)) for key in columns.values()] for row in rows]


def _completion(run: Run, answer: Answer) -> None:
    """What completion repaired."""
    if rows := run.completion:
        answer.tables.append(
            (
                "What completion repaired, of the square of what skipping loses",
                ["layer", "method", "lost before", "lost after", "repaired", "skipped tokens"],
                [
                    [words.place_of(row), row["method"], "100 %", f"{100 * row['left']:.1f} %",
                     f"{100 * (1 - row['left']):.1f} %", str(row["tokens"])]
                    for row in rows
                ],
            )
        )  # fmt: skip


def _done(run: Run, answer: Answer) -> None:
    """What was done and why."""
    answer.done = words.done(run)
    answer.layers = [
        {key: row[key] for key in ("layer", "role", "indicator", "damage")}
        for row in (run.plan or {}).get("layers", ())
    ]
