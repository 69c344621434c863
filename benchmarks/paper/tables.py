"""SVE's tables and figures as Markdown: what the paper states beside what was measured here."""

import tomllib
from typing import Any

from benchmarks.paper.config import HERE, Encoder, read
from benchmarks.tables.markdown import rows, setting

NONE = "-"


def costs(result: dict[str, Any], name: str) -> str:
    """TFLOP and speedup of one table's encoders, stated and measured."""
    header = ["", "resolution", "TFLOP, paper", "here", "saved, paper", "here", "speedup, paper", "here"]
    lines = []
    for encoder, row in zip(read(name), result[name], strict=True):
        stated, found = encoder.paper, row["speed"]
        lines.append([
            encoder.name, str(encoder.resolution),
            NONE if stated.tflop is None else f"{stated.tflop} to {stated.tflop_sve}",
            f"{found['dense']['tflop']:.2f} to {found['sve']['tflop']:.2f}",
            NONE if stated.saved is None else f"{100 * stated.saved:.0f} %",
            f"{100 * found['saved']:.1f} %", f"{stated.speedup:.2f}x", f"{found['speedup']:.2f}x",
        ])  # fmt: skip
    note = setting(result["protocol"], "random weights: only speed is meant")
    return note + "\n\n" + rows(header, lines)


def scores(result: dict[str, Any], name: str) -> str:
    """Scores of one table's encoders in percent; what was not run says which files it lacks."""
    header = ["", "resolution", "task", "paper, dense", "paper, SVE", "here, dense", "here, SVE"]
    lines = []
    for encoder, row in zip(read(name), result[name], strict=True):
        for task, found in zip(encoder.tasks, row["tasks"], strict=True):
            lines.append([
                encoder.name, str(encoder.resolution), f"{task.data}, {task.score}",
                NONE if task.dense is None else f"{task.dense:.2f}", f"{task.sve:.2f}",
                *(["not run", _lacking(found)] if "missing" in found else _percent(found, "sve")),
            ])  # fmt: skip
    return rows(header, lines)


def ablation(result: dict[str, Any]) -> str:
    """Table 3: sparse attention and distillation, each with and without the other."""
    (encoder,), ((found,),) = read("table3"), [row["tasks"] for row in result["table3"]]
    arms = ("dense", "sparse", "dense_distilled", "sparse_distilled")
    stated = encoder.ablation
    lines = []
    for arm in arms:
        if "missing" in found:
            here = "not run: " + _lacking(found)
        else:
            score = found["sparse"]["dense"] if arm == "dense" else found[arm]["sparse"]
            here = f"{100 * score:.2f}"
        lines.append([arm.replace("_", ", "), f"{getattr(stated, arm):.2f}", here])
    return rows([f"{encoder.name}, {encoder.tasks[0].data}", "paper", "here"], lines)


def module(result: dict[str, Any]) -> str:
    """Table 4: one attention module."""
    table = tomllib.loads((HERE / "table4.toml").read_text(encoding="utf-8"))
    found = next(row for row in result["rows"] if row["model"] == table["model"])
    dense = found["arms"]["module dense"]["latency_ms"]
    lines = []
    for row in table["rows"]:
        ours = found["arms"][row["arm"]]["latency_ms"]
        stated = [f"{row['paper_ms']:.2f} ms", f"{row['paper']}x"]
        lines.append([row["name"], *stated, f"{ours:.0f} ms", f"{dense / ours:.2f}x"])
    header = [f"{table['model']}, {found['tokens']} tokens", "paper, GPU", "speedup", "here", "speedup"]
    return setting(result["protocol"]) + "\n\n" + rows(header, lines)


def figures(result: dict[str, Any]) -> str:
    """Figures 4 and 5 for the public checkpoints."""
    lines = []
    for name in ("figure4", "figure5"):
        for encoder, row in zip(read(name), result[name], strict=True):
            lines.append([name.replace("figure", "Figure "), encoder.name, _curve(encoder, row)])
    return rows(["", "encoder", "here"], lines).replace("---:", "---")


def _percent(found: dict[str, Any], arm: str) -> list[str]:
    return [f"{100 * found[arm][side]:.2f}" for side in ("dense", "sparse")]


def _lacking(found: dict[str, Any]) -> str:
    return "no " + ", ".join(f"`{path}`" for path in dict.fromkeys(found["missing"]))


def _curve(encoder: Encoder, row: dict[str, Any]) -> str:
    if "missing" in row:
        return "not run: " + _lacking(row)
    layers = row["analysis"]["layers"]
    if encoder.projector is None:
        return ", ".join(f"{layer['indicator']:.2f}" for layer in layers)
    recall = next(layer["recall"] for layer in layers if layer["layer"] == encoder.projector)
    points = zip(row["analysis"]["kept_fractions"], recall["linear"], strict=True)
    return ", ".join(f"{found:.3f} in the top {kept:g}" for kept, found in points)
