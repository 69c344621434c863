"""What the command line prints: results as tables, for people."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from sparsight.plan import Plan
    from sparsight.stages.calibrate import Analysis


def show_demo(result: Mapping[str, Any]) -> None:
    """The demo's one table: speed and quality side by side."""
    protocol = result["protocol"]
    table = _table(
        f"{protocol['machine']}; {protocol['dtype']}, {protocol['threads']} threads, "
        f"{protocol['resolution']}, batch {protocol['batch']}; {protocol['scenes']} held-out scenes",
        ["", "latency ms", "speedup", "GFLOPs", "mIoU", "against dense", "accuracy", "error", "worst"],
    )
    for row in result["rows"]:
        table.add_row(
            row["name"], f"{row['latency_ms']:.0f}", f"{row['speedup']:.2f}x", f"{row['gflops']:.1f}",
            f"{row['miou']:.4f}", _interval(row["miou_low"], row["miou_high"]), f"{row['accuracy']:.4f}",
            f"{row['relative_error']:.4f}", f"{row['relative_error_worst']:.4f}",
        )  # fmt: skip
    _print(table)


def show_analysis(found: "Analysis") -> None:
    """One line for each layer."""
    scores = sorted({name for layer in found.layers for name in layer.recall})
    known = any(layer.linear_rest is not None for layer in found.layers)
    told = "; rest, linear: error of a linear map from there straight to the end" if known else ""
    table = _table(
        f"{found.images} images, {found.tokens} tokens; recall of the true top 1/8 when keeping 1/8"
        + told,
        ["layer", "indicator s", "top 1/8 share", "overlap", *["rest, linear"] * known, *scores],
    )
    at = found.kept_fractions.index(1 / 8)
    for place, layer in enumerate(found.layers):
        table.add_row(
            str(layer.layer), f"{layer.indicator:.2f}", f"{layer.top_share:.2f}",
            f"{found.overlap[place - 1][place]:.2f}" if place else "-",
            *[_number(layer.linear_rest)] * known,
            *(f"{layer.recall[s][at]:.3f}" if s in layer.recall else "-" for s in scores),
        )  # fmt: skip
    _print(table)


def show_plan(plan: "Plan") -> None:
    """What was decided for each layer, and why."""
    if plan.layers:
        scores = sorted({name for row in plan.layers for name in row.recall})
        table = _table(
            "recall: share of the true top 1/8 that a score has in its top 1/8" if scores else "",
            ["layer", "role", "indicator s", "damage alone", "overlap", *scores],
        )
        for row in plan.layers:
            figures = [row.indicator, row.damage, row.overlap, *(row.recall.get(s) for s in scores)]
            table.add_row(str(row.layer), row.role, *map(_number, figures))
        _print(table)
    if repaired := plan.recipe.get("completion"):
        table = _table(
            "completion: of what skipped tokens lack without a map, squared, what they lack with it",
            ["layer", "method", "before", "after", "repaired", "skipped tokens"],
        )
        for row in repaired:
            table.add_row(
                str(row["layer"]), row["method"], "100 %", f"{100 * row['left']:.1f} %",
                f"{100 * (1 - row['left']):.1f} %", str(row["tokens"]),
            )  # fmt: skip
        _print(table)
    for reason in plan.reasons:
        Console().print(f"- {reason}", markup=False, highlight=False)


def show_parity(report: Mapping[str, Any]) -> None:
    """An exported file beside PyTorch, size by size, and its speed."""
    table = _table(
        f"{report['file']} in {report['protocol']['precision']}, beside PyTorch",
        ["picture", "batch", "error, same kept set", "overlap", "cosine", "worst token"],
    )
    for row in report["cases"]:
        table.add_row(
            row["size"], str(row["batch"]), f"{row['error']:.1e}",
            "-" if row["overlap"] is None else f"{row['overlap']:.4f}",
            f"{row['cosine']:.6f}", f"{row['cosine_worst']:.6f}",
        )  # fmt: skip
    _print(table)
    if judged := report.get("task"):
        told = _table(
            f"judged by {judged['task']} on {judged['images']} pictures of {judged['data']}",
            ["", "dense", "sparse in PyTorch", "sparse in the engine"],
        )
        for row in judged["scores"]:
            told.add_row(row["metric"], *(f"{row[arm]:.4f}" for arm in ("dense", "pytorch", "engine")))
        _print(told)
    speed = report["speed"]
    if "speedup" in speed:
        Console().print(
            f"in the engine at {speed['size']}: dense {speed['dense']['latency_ms']:.0f} ms, sparse "
            f"{speed['sparse']['latency_ms']:.0f} ms, {speed['speedup']:.2f}x",
            highlight=False,
        )


def show_measurement(result: Mapping[str, Any]) -> None:
    """Dense against sparse, then how far the features moved."""
    protocol = result["protocol"]
    table = _table(
        f"{protocol['machine']}; {protocol['dtype']}, {protocol['threads']} threads",
        ["resolution", "batch", "", "latency ms", "speedup", "images/s", "peak MB", "GFLOPs"],
    )
    for case in result["cases"]:
        table.add_row(
            case["resolution"], str(case["batch"]), case["arm"], f"{case['latency_ms']:.1f}",
            f"{case['speedup']:.2f}x", f"{case['images_per_s']:.2f}",
            *("-" if case[key] is None else f"{case[key]:.{digits}f}"
              for key, digits in (("peak_memory_mb", 0), ("gflops", 1))),
        )  # fmt: skip
    _print(table)
    for note in result["notes"]:
        Console().print(note, markup=False, highlight=False)
    for why, count in result.get("dense_calls", {}).items():
        Console().print(f"long enough, but dense {count} times: {why}", highlight=False)
    if moved := result.get("fidelity"):
        Console().print(
            f"final features over {moved['images']} images at {moved['resolution']}: relative error "
            f"{moved['relative_error']:.4f} (worst {moved['relative_error_worst']:.4f}), cosine "
            f"{moved['cosine']:.4f} (worst {moved['cosine_worst']:.4f})",
            highlight=False,
        )
        _show_kept(moved.get("kept", {}))
    for which, row in zip(("least", "most"), result.get("by_count", ()), strict=False):
        told = f"the picture that keeps {which}, {row['name']}: {row['latency_ms']:.1f} ms"
        Console().print(told, markup=False, highlight=False)


def show_evaluation(result: Mapping[str, Any]) -> None:
    """Both arms and the interval of their difference, then the images that lose most."""
    protocol = result["protocol"]
    interval = protocol["interval"].split(",")[0]
    table = _table(
        f"{result['task']} on {protocol['images']} images of {protocol['data']} at "
        f"{protocol['resolution']}; {interval} interval of the difference over images",
        ["", "dense", "sparse", "difference", "from", "to"],
    )
    for row in [*result["details"], *result["scores"]]:
        figures = [row[name] for name in ("dense", "sparse", "difference", "low", "high")]
        name = f"{row['of']}: {row['metric']}" if "of" in row else row["metric"]
        table.add_row(name, *("-" if x is None else f"{x:.4f}" for x in figures))
    _print(table)
    for split, told in result["labels"].items():
        Console().print(f"labels of {split}: {told}", markup=False, highlight=False)
    if result["worst"]:
        methods = list(result.get("kept", {}))
        lost = _table(
            f"the images that lose most, {protocol['worst']}",
            ["image", "dense", "sparse", *(f"{name} keeps" for name in methods)],
        )
        for image in result["worst"]:
            lost.add_row(
                escape(image["image"]), f"{image['dense']:.4f}", f"{image['sparse']:.4f}",
                *(f"{image['kept'][name]:.0%}" for name in methods),
            )  # fmt: skip
        _print(lost)
    _show_kept(result.get("kept", {}))
    for note in result["notes"]:
        Console().print(f"- {note}", markup=False, highlight=False)


def _show_kept(spread: Mapping[str, Mapping[str, float]]) -> None:
    """How much of the pictures was kept, where that depends on them."""
    for name, share in spread.items():
        Console().print(
            f"{name} keeps {share['median']:.0%} of the middle picture, {share['min']:.0%} to "
            f"{share['max']:.0%} over all; the fuller a picture is, the more, and the longer it takes",
            highlight=False,
        )


def show_comparison(result: Mapping[str, Any]) -> None:
    """Quality against latency, in the order of the rows."""
    protocol = result["protocol"]
    table = _table(
        f"{protocol['machine']}; {protocol['dtype']}, {protocol['threads']} threads, "
        f"{protocol['resolution']}, batch 1; quality: {result['rows'][0]['quality_name']} on "
        f"{protocol['images']} images",
        ["", "setting", "trained", "latency ms", "speedup", "GFLOPs", "quality", "error", "worst"],
    )
    for row in result["rows"]:
        table.add_row(
            row["method"], row["setting"], "yes" if row["trained"] else "no",
            f"{row['latency_ms']:.0f}", f"{row['speedup']:.2f}x", f"{row['gflops']:.1f}",
            f"{row['quality']:.4f}", f"{row['relative_error']:.4f}",
            f"{row['relative_error_worst']:.4f}",
        )  # fmt: skip
    _print(table)
    for name, reason in result["left_out"].items():
        Console().print(f"- {name} is left out: {reason}", markup=False, highlight=False)


def show_rows(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Any table."""
    table = _table(caption, columns)
    for row in rows:
        table.add_row(*map(escape, row))
    _print(table)


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(caption: str, columns: Sequence[str]) -> Table:
    table = Table(caption=caption or None, caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a pipe has no width of its own: never cut a column there
    console.print(table)
