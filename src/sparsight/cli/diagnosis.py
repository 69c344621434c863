"""What `sparsight doctor` prints, from the plain data that it found."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import typer

from sparsight.tables import show_rows


def show(found: dict[str, Any]) -> None:
    """The whole result, for people: what was counted, what was timed, and what was scaled up."""
    for line in _model(found):
        typer.echo(line)
    if not found["supported"]:
        return
    for line in (*_machine(found), *_work(found), *_dense(found)):
        typer.echo(line)
    _methods(found)
    for line in (*_sizes(found), *_pictures(found), *_verdict(found)):
        typer.echo(line)


def _model(found: dict[str, Any]) -> Iterator[str]:
    model, inside = found["model"], f", module {found['module']}" if found["module"] else ""
    library = f"{model['library']['name']} {model['library']['version'] or '(version not known)'}"
    yield f"model     {model['class']} ({library}){inside}"
    kinds, places = " and ".join(model["dtypes"]) or "no dtype", _listed(model["devices"])
    yield f"          {model['parameters'] / 1e6:.1f} M parameters, {kinds}, on {places}"
    if not found["supported"]:
        yield f"          not supported: {found['refusal']}"
        for path in found["modules"]:
            yield f"          supported inside it: --module {path}"
        return
    yield f"          family {model['family']}, verified with {model['verified_with']}"
    yield (
        f"          blocks: {model['blocks']}, width {_listed(model['dim'])}, heads "
        f"{_listed(model['heads'])}; prefix tokens: {model['prefix_tokens']}; pictures: multiples of "
        f"{_by(model['patch_px'])} px"
    )
    windows = model["window_layers"]
    if seeing_all := [n for n in model["sparse_layers"] if n not in windows]:
        yield f"          global attention, which can become sparse, in layers {_runs(seeing_all)}"
    if windows:
        yield f"          windows, which SparseViT can drop, in layers {_runs(windows)}"
    if dense := model["dense_layers"]:
        yield f"          layers {_runs(dense)} attend within windows or pool, and stay as they are"


def _machine(found: dict[str, Any]) -> Iterator[str]:
    machine = found["machine"]
    sets = _listed(machine["instruction_sets"]) or "instruction sets not known"
    yield f"machine   {machine['name']}; {sets}; {machine['threads']} threads"
    for note in found["notes"]:
        yield f"note      {note}"


def _work(found: dict[str, Any]) -> Iterator[str]:
    work = found["work"]
    layers = sorted(set(work["tokens_by_layer"]), reverse=True)
    tokens = f"{work['tokens']} tokens" if len(layers) == 1 else f"{_listed(layers)} tokens, by stage"
    parts = ", ".join(
        f"{part} {100 * spent / work['gflops']:.0f} %" for part, spent in work["gflops_by_part"].items()
    )
    size = _by(found["resolution"])
    yield f"work      {size} px: {tokens}, {work['gflops']:.4g} GFLOPs (counted)"
    yield f"          {parts}"


def _dense(found: dict[str, Any]) -> Iterator[str]:
    dense = found["dense"]
    if dense["whole_ms"] is None:
        yield "dense     not timed: one block would take longer than this check may"
    else:
        yield (
            f"dense     about {_time(dense['whole_ms'])} a picture in {dense['dtype']}: scaled up from "
            f"single blocks, timed, of kinds that do {100 * dense['timed_share']:.0f} % of the FLOPs"
        )
    for form in dense["forms"]:
        if form["form"] != dense["dtype"]:
            told = form["why_not"] or f"{form['speedup']:.2f}x as fast (one block, timed)"
            yield f"          {form['form']}: {told}"


def _methods(found: dict[str, Any]) -> None:
    fitting = [row for row in found["methods"] if not row["refused"]]
    show_rows(
        "limit: the speed-up that the FLOPs allow, counted.  estimate: that of the whole model, scaled "
        "up from single blocks.  pays from: tokens from which on one block was faster, timed",
        ["method", "setting", "GFLOPs", "limit", "estimate", "pays from"],
        [
            [
                row["method"], row["setting"] + " (trained first)" * row["trained"],
                f"{row['gflops']:.4g}", f"{row['flop_limit']:.2f}x",
                f"{row['estimate']:.2f}x" if row["estimate"] else "-",
                _pays(row, found["by_size"]),
            ]
            for row in fitting
        ],
    )  # fmt: skip
    reasons: dict[str, list[str]] = {}
    for row in found["methods"]:
        if row["refused"]:  # of several methods often in the same words
            reasons.setdefault(row["refused"].removeprefix(row["method"]), []).append(row["method"])
    for reason, names in reasons.items():
        text = f"- {_listed(names)}: {reason.strip()}"
        typer.echo(text)


def _pays(row: dict[str, Any], sizes: list[dict[str, Any]]) -> str:
    if not row["sizes_timed"]:
        return "-"
    return str(row["pays_from_tokens"] or f"above {max(size['tokens'] for size in sizes)}")


def _sizes(found: dict[str, Any]) -> Iterator[str]:
    rows = found["by_size"]
    if rows:
        times = "; ".join(
            f"{row['tokens']} tokens: "
            + ", ".join(f"{name} {_time(ms)}" for name, ms in row["ms"].items())
            for row in rows
        )
        yield f"one block, timed: {times}"


def _pictures(found: dict[str, Any]) -> Iterator[str]:
    pictures = found["pictures"]
    if pictures is None:
        return
    rest = pictures["files"] - pictures["decoded"]
    more = f"; {rest} more were not looked at, for lack of time" if rest else ""
    yield (
        f"pictures  {pictures['usable']} of {pictures['decoded']} files decoded are usable{more}; "
        f"{pictures['enlarged']} are smaller than {_by(found['resolution'])} px and would be enlarged"
    )
    if pictures["left_out"]:
        yield f"          left out {pictures['left_out']}"
    for one in pictures["unread"]:
        yield f"          {one['why']}"
    if (unnamed := pictures["unread_count"] - len(pictures["unread"])) > 0:
        yield f"          and {unnamed} more that cannot be read"
    for note in pictures["notes"]:
        yield f"          {note}"
    for name in ("smallest", "largest"):
        if (row := pictures[name]) is not None:
            yield f"          {name} {_by(row['size'])} px, {row['tokens']} tokens at its own size"
    for row in pictures["most_common"]:
        yield f"          {row['pictures']} of {_by(row['size'])} px: {row['tokens']} tokens"


def _verdict(found: dict[str, Any]) -> Iterator[str]:
    verdict = found["verdict"]
    yield f"verdict   worth it here: {verdict['worth']}; {verdict['why']}"
    yield "          quality is not looked at here: optimize, measure and evaluate tell what it costs"
    if verdict["command"]:
        yield f"try first {verdict['command']}"


def _by(size: list[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _listed(values: list[Any]) -> str:
    return ", ".join(map(str, values))


def _runs(layers: list[int]) -> str:
    """Layer numbers, consecutive ones as a range."""
    if not layers:
        return "none"
    breaks = [place for place, (a, b) in enumerate(pairwise(layers), 1) if b != a + 1]
    starts, ends = [0, *breaks], [*breaks, len(layers)]
    parts = [layers[start:end] for start, end in zip(starts, ends, strict=True)]
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts)


def _time(ms: float) -> str:
    return f"{ms / 1e3:.2f} s" if ms >= 1000 else f"{ms:.3g} ms"
