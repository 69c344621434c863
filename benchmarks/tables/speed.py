"""The tables of docs/speed.md and of the speed sections of docs/results.md."""

import math
from typing import Any

from benchmarks.tables.markdown import rows, setting

HOLE = "-"


def attention(result: dict[str, Any]) -> str:
    """Speedups over the dense module or core of the same run."""
    arms = [
        "core sparse", "module exact", "module sampled 1/8", "module sampled 1/16", "module linear",
        "module reuse",
    ]  # fmt: skip
    header = ["", "tokens", "batch", "kept", "limit", "core sparse", "of the limit", *arms[1:]]
    lines = []
    for row in result["rows"]:
        speed = {arm: row["arms"][arm].get("speedup", float("nan")) for arm in arms}
        lines.append(
            [
                row["model"], str(row["tokens"]), str(row["batch"]), str(row["kept"]),
                f"{row['limit']:.2f}x", f"{speed['core sparse']:.2f}x",
                f"{100 * speed['core sparse'] / row['limit']:.0f} %",
                *(f"{speed[arm]:.2f}x" for arm in arms[1:]),
            ]
        )  # fmt: skip
    return made(result) + "\n\n" + rows(header, lines)


def made(result: dict[str, Any], *more: str) -> str:
    """The setting of a result whose cases may be of several revisions."""
    revisions = sorted({row["revision"] for row in result["rows"]})
    protocol = result["protocol"] | {"revision": ", ".join(revisions)}
    return setting(protocol, repeats_of(result["rows"]), *more)


def repeats_of(found: list[dict[str, Any]]) -> str:
    """How often the cases were repeated."""
    counts = sorted(
        {
            arm["repeats"]
            for row in found
            for arm in row.get("arms", {"": row}).values()
            if "repeats" in arm
        }
    )
    spread = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"medians of {spread} interleaved repeats"


def tiles(result: dict[str, Any]) -> str:
    """The core at several kept counts."""
    lines = [
        [
            row["model"], str(row["tokens"]), str(row["kept"]), f"{row['latency_ms']:.1f} ms",
            f"{row['latency_q1_ms']:.1f} to {row['latency_q3_ms']:.1f}", f"{row['speedup']:.2f}x",
            f"{row['limit']:.2f}x", f"{100 * row['speedup'] / row['limit']:.0f} %",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    header = ["", "tokens", "kept", "latency", "quartiles", "speedup", "limit", "of the limit"]
    return made(result) + "\n\n" + rows(header, lines)


def module_profile(result: dict[str, Any]) -> str:
    """What a module that reuses a ranking is made of, beside what the predictor adds."""
    header = ["", "tokens", "batch", "module, reuse", "linear layers", "two attention calls", "the rest"]
    header += ["score and select"]
    lines = []
    for row in result["rows"]:
        ms = {
            arm: row["arms"][arm]["latency_ms"]
            for arm in row["arms"]
            if "latency_ms" in row["arms"][arm]
        }
        lines.append(
            [
                row["model"], str(row["tokens"]), str(row["batch"]), f"{ms['module reuse']:.1f} ms",
                f"{ms['linear layers']:.1f} ms", f"{ms['core sparse']:.1f} ms",
                f"{100 * row['unexplained']:+.1f} %", f"{100 * row['overhead']:.1f} % of it",
            ]
        )  # fmt: skip
    return rows(header, lines)


def peers(result: dict[str, Any]) -> str:
    """Other kernels for the same attention."""
    lines = []
    for row in result["rows"]:
        for arm, found in row["arms"].items():
            if arm.startswith("core") and any("core dense," in name for name in row["arms"]):
                speed = (
                    f"{found['speedup']:.2f}x" if "speedup" in found else found["hole"].split(". ")[0]
                )
                ms = f"{found['latency_ms']:.1f} ms" if "latency_ms" in found else HOLE
                memory = f"{found['peak_memory_mb']:.0f} MB" if "peak_memory_mb" in found else HOLE
                lines.append([f"{row['model']}, {row['tokens']} tokens", arm, ms, speed, memory])
    return rows(["", "attention", "latency", "speedup", "peak memory"], lines)


def ladder(result: dict[str, Any]) -> str:
    """Every rung of every model, with its holes; "by FLOPs" is the speedup if all work were alike."""
    header = [
        "model", "picture", "batch", "", "latency", "quartiles", "speedup", "by FLOPs", "GFLOPs",
        "peak memory", "first call",
    ]  # fmt: skip
    dense = {
        row["case"]: row["gflops"]
        for row in result["rows"]
        if row["arm"] == "dense, SDPA" and "gflops" in row
    }
    lines = []
    for row in result["rows"]:
        name = f"`{row['model'].removeprefix('timm:')}`"
        at = [name, row["resolution"], str(row["batch"]), row["arm"]]
        if "hole" in row:
            lines.append([*at, HOLE, HOLE, row["hole"], *[HOLE] * 4])
            continue
        graphs = f", {row['graphs']} graph{'s' * (row['graphs'] != 1)}" if "graphs" in row else ""
        first = f"{row['cold_start_s']:.0f} s{graphs}" if "cold_start_s" in row else HOLE
        work = [HOLE, HOLE]
        if "gflops" in row:
            work = [f"{dense[row['case']] / row['gflops']:.2f}x", f"{row['gflops']:.0f}"]
        lines.append(
            [
                *at, f"{row['latency_ms']:.0f} ms",
                f"{row['latency_q1_ms']:.0f} to {row['latency_q3_ms']:.0f}",
                f"{row['speedup']:.2f}x", *work, f"{row['peak_memory_mb']:.0f} MB",
                first,
            ]
        )  # fmt: skip
    return made(result, "random weights: only speed is meant") + "\n\n" + rows(header, lines)


def against(result: dict[str, Any]) -> str:
    """This revision beside another, turn by turn in one run."""
    found = {(row["case"], row["of"], row["arm"]): row for row in result["rows"]}
    lines, revisions = [], {row["of"]: row["revision"] for row in result["rows"]}
    for (case, of, arm), row in found.items():
        if of == "this":
            its = found[case, "other", arm]
            lines.append(
                [
                    case, arm.removeprefix("module "), f"{its['latency_ms']:.0f} ms",
                    f"{row['latency_ms']:.0f} ms",
                    f"{row['latency_q1_ms']:.0f} to {row['latency_q3_ms']:.0f}",
                    f"{its['speedup']:.2f}x", f"{row['speedup']:.2f}x", f"{row['against_other']:.2f}x",
                ]
            )  # fmt: skip
    p = result["protocol"]
    note = setting(p, p["resolution"], repeats_of(result["rows"]), "random weights")
    header = ["", "", revisions["other"] or "other", "this", "quartiles"]
    header += ["over dense, other", "this", "this over other"]
    return note + "\n\n" + rows(header, lines, words=2)


def shares(result: dict[str, Any]) -> str:
    """Where the time goes, one column for each kind of work."""
    kinds = list(result["rows"][0]["spent_ms"])
    lines = [
        [row["arm"], f"{row['latency_ms']:.0f} ms", *(f"{ms:.0f} ms" for ms in row["spent_ms"].values())]
        for row in result["rows"]
    ]
    first = result["rows"][0]
    note = made(
        result, f"{first['model'].removeprefix('timm:')} at {first['resolution']}, random weights"
    )
    return note + "\n\n" + rows(["", "latency", *kinds], lines)


def ladder_short(result: dict[str, Any]) -> str:
    """One line for each model and size: the rungs side by side."""
    rungs = {
        "sampled": "sparse attention, sampled", "projector": "+ projector", "reuse": "+ reuse",
        "reuse, MLP 1/4": "+ MLP routing", "SVE, then early exit": "sparse attention, then early exit",
        "half the windows": "50 % of windows dropped",
    }  # fmt: skip
    over = {  # sparse and dense, both in the same form
        "compiled, over compiled": ("routed, compiled", "dense, compiled"),
        "sampled in bfloat16, over dense in it": ("sampled, bfloat16", "dense, bfloat16"),
    }
    cases: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        name = f"`{row['model'].removeprefix('timm:')}`"
        cases.setdefault((name, row["resolution"], str(row["batch"])), {})[row["arm"]] = row
    lines = []
    for at, own in cases.items():
        dense = own["dense, SDPA"]
        if "hole" in dense:
            continue
        line = [*at, f"{dense['latency_ms']:.0f} ms"]
        for arm in rungs.values():
            found = own.get(arm, {})
            line.append(f"{found['speedup']:.2f}x" if "speedup" in found else HOLE)
        for arm, base in over.values():
            found, dense = own.get(arm, {}), own.get(base, {})
            known = "latency_ms" in found and "latency_ms" in dense
            line.append(f"{dense['latency_ms'] / found['latency_ms']:.2f}x" if known else HOLE)
        lines.append(line)
    note = made(result, "random weights: only speed is meant")
    return note + "\n\n" + rows(["model", "picture", "batch", "dense", *rungs, *over], lines)


def exponent(rows: list[dict[str, Any]], arm: str, start: int) -> float:
    """d log(latency) / d log(tokens) of an arm over the sizes from `start` on."""
    own = [r for r in rows if r["arm"] == arm and r["tokens"] >= start and "latency_ms" in r]
    x, y = ([math.log(r[key]) for r in own] for key in ("tokens", "latency_ms"))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)


def scaling(result: dict[str, Any]) -> str:
    """Latency of a module by tokens, and the exponents."""
    arms = list(dict.fromkeys(row["arm"] for row in result["rows"]))
    counts = sorted({row["tokens"] for row in result["rows"]})
    found = {(row["tokens"], row["arm"]): row for row in result["rows"]}

    def cell(n: int, arm: str) -> str:
        row = found[n, arm]
        if "hole" in row:
            return row["hole"]
        return f"{row['latency_ms']:.1f} ms" + (f" ({row['speedup']:.1f}x)" if arm != "dense" else "")

    lines = [[str(n), *(cell(n, arm) for arm in arms)] for n in counts]
    start = result["protocol"]["fitted_from"]
    slopes = (f"{exponent(result['rows'], arm, start):.2f}" for arm in arms)
    lines.append([f"exponent, from {start}", *slopes])
    return made(result) + "\n\n" + rows(["tokens", *arms], lines)


def preparing(result: dict[str, Any]) -> str:
    """What calibration and distillation cost."""
    lines = [
        [
            f"`{row['model'].removeprefix('timm:')}`, {row['blocks']} blocks", row["resolution"],
            row["arm"], f"{row['latency_ms']:.0f} ms", f"{row['cost']:.2f}x",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    note = made(result)
    return note + "\n\n" + rows(["model", "picture", "", "time", "of the first row"], lines)


ENGINES = {"pytorch": "PyTorch", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}


def fastest(result: dict[str, Any]) -> str:
    """The fastest row of all engines, in a sentence."""
    row = max((row for row in result["rows"] if "hole" not in row), key=lambda r: r["over_pytorch"])
    base, engine = result["rows"][0], ENGINES[row["engine"]]
    return (
        f"Exported, the same runs **{row['over_pytorch']:.1f} times as fast** in {engine} as the dense "
        f"model in PyTorch ({base['latency_ms']:.0f} ms to {row['latency_ms']:.0f} ms, another run): "
        "one file for 256 to 1024 px."
    )


def _parity(parity: dict[str, Any] | None) -> list[str]:
    """Over all sizes and batches compared."""
    if parity is None:
        return ["-"] * 3
    return [f"{parity['error']:.0e}", f"{parity['overlap']:.3f}", f"{parity['cosine_worst']:.6f}"]


def export(result: dict[str, Any]) -> str:
    """Dense and sparse in each engine, over the dense model there and over the dense one in PyTorch."""
    lines = [
        [
            ENGINES[row["engine"]], f"`{row['name']}`", f"{row['latency_ms']:.0f} ms",
            f"{row['latency_q1_ms']:.0f} to {row['latency_q3_ms']:.0f}", f"{row['speedup']:.2f}x",
            f"{row['over_pytorch']:.2f}x", *_parity(row.get("parity")),
        ]
        for row in result["rows"]
        if "hole" not in row
    ]  # fmt: skip
    header = [
        "engine", "", "latency", "quartiles", "over dense there", "over dense in PyTorch",
        "largest error", "least overlap", "worst cosine",
    ]  # fmt: skip
    versions = ", ".join(result["protocol"]["engines"].values())
    more = (result["protocol"]["resolution"], f"one file for 256 to 1024 px each; {versions}")
    return setting(result["protocol"], *more) + "\n\n" + rows(header, lines, words=2)
