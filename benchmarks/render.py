"""Render the tables of README.md and docs/ from benchmarks/results/ and the registry of families.

`python benchmarks/render.py` rewrites what stands between `<!-- results: NAME -->` and `<!-- end -->`
and draws the pictures; with `--check` it changes nothing and fails if a page is not up to date.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plots
import speed_tables as speed
from markdown import rows, setting
from paper import tables as paper

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- results: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def quality(result: dict[str, Any], *more: str) -> str:
    """The demo's and CamVid's table."""
    has_labels = "accuracy" in result["rows"][0]
    header = ["", "latency", "speedup", "GFLOPs", "mIoU", "against dense, 95 %"]
    header += ["accuracy"] if has_labels else []
    header += ["feature error, mean", "worst image"]
    lines = []
    for row in result["rows"]:
        line = [
            f"`{row['name']}`", f"{row['latency_ms']:.0f} ms", f"{row['speedup']:.2f}x",
            f"{row['gflops']:.1f}", f"{row['miou']:.4f}",
            f"{row['miou_low']:+.4f} to {row['miou_high']:+.4f}",
        ]  # fmt: skip
        if has_labels:
            line.append(f"{row['accuracy']:.4f}")
        line += [f"{row['relative_error']:.3f}", f"{row['relative_error_worst']:.3f}"]
        lines.append(line)
    return setting(result["protocol"], *more) + "\n\n" + rows(header, lines)


def demo(result: dict[str, Any]) -> str:
    p = result["protocol"]
    return quality(result, p["resolution"], f"{p['scenes']} held-out scenes")


def camvid(result: dict[str, Any]) -> str:
    p = result["protocol"]
    return quality(result, p["resolution"], f"{p['frames']} validation frames")


def camvid_recall(result: dict[str, Any]) -> str:
    return recall(result["analysis_distilled"])


def spot(result: dict[str, Any]) -> str:
    """SPOT at several rho, and an untrained ranking beside it."""
    header = ["", "latency", "speedup", "own cost", "GFLOPs", "saved", "accuracy", "mIoU"]
    header += ["feature error, mean", "worst image"]
    lines = [
        [
            f"`{row['name']}`", f"{row['latency_ms']:.0f} ms", f"{row['speedup']:.2f}x",
            f"{100 * row['own_share']:.1f} %" if "own_share" in row else "-", f"{row['gflops']:.1f}",
            f"{100 * row['flops_saved']:.0f} %", f"{row['accuracy']:.4f}", f"{row['miou']:.4f}",
            f"{row['relative_error']:.3f}", f"{row['relative_error_worst']:.3f}",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    p = result["protocol"]
    note = setting(p, p["resolution"], f"{p['scenes']} held-out scenes")
    return note + "\n\n" + rows(header, lines)


def sam2(result: dict[str, Any]) -> str:
    """Speedups over the fastest dense form of the same run, and what the FLOPs allow."""
    header = ["", "resolution", "latency", "in global blocks", "speedup", "GFLOPs", "FLOP limit"]
    lines = [
        [
            row["arm"], row["resolution"], f"{row['latency_ms'] / 1e3:.2f} s",
            f"{row['global_blocks_s']:.2f} s", f"{row['speedup']:.2f}x", f"{row['gflops']:.0f}",
            f"{row['limit']:.2f}x",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    p = result["protocol"]
    return (
        setting(p, f"`{p['model']}`", "random weights: only speed is meant")
        + "\n\n"
        + rows(header, lines)
    )


def swin(result: dict[str, Any]) -> str:
    """Speed and quality of every sparsity, plain and adapted."""
    header = ["sparsity by stage", "windows dropped", "adapted", "latency", "speedup", "GFLOPs", "mIoU"]
    header += ["against dense, 95 %", "feature error, mean", "worst image"]
    lines = [
        [
            row["setting"], f"{100 * row['windows_dropped']:.0f} %", row["trained"],
            f"{row['latency_ms']:.0f} ms", f"{row['speedup']:.2f}x",
            f"{row['gflops']:.1f}", f"{row['miou']:.3f}",
            f"{row['miou_low']:+.3f} to {row['miou_high']:+.3f}",
            f"{row['relative_error']:.3f}", f"{row['relative_error_worst']:.3f}",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    p = result["protocol"]
    steps = [f"{name} for {count} steps" for name, count in p["adapted_steps"].items()]
    note = setting(p, p["resolution"], f"{p['scenes']} held-out scenes", *steps)
    return note + "\n\n" + rows(header, lines)


def swin_stages(result: dict[str, Any]) -> str:
    """What pruning single stages does to the adapted model."""
    lines = [
        [name, f"{row['miou']:.3f}", f"{100 * row['background_as_object']:.1f} %"]
        for name, row in result["by_stage"].items()
    ]
    return rows(["60 % dropped in stage", "mIoU", "background called an object"], lines)


def swin_ranking(result: dict[str, Any]) -> str:
    """What the strongest windows hold of the objects, by the weights that rank."""
    header = ["adapted", *(f"stage {n}" for n in (1, 2, 3, 4))]
    lines = [
        [trained, *(f"{100 * share:.0f} %" for share in shares)]
        for trained, shares in result["objects_found"].items()
    ]
    return rows(header, lines)


def memory(result: dict[str, Any]) -> str:
    header = ["resolution", "tokens", "peak above the model", "one full attention map"]
    lines = [
        [
            row["resolution"],
            str(row["tokens"]),
            f"{row['peak_mb']:.0f} MB",
            f"{row['full_map_mb']:.0f} MB",
        ]
        for row in result["rows"]
    ]
    p = result["protocol"]
    return f"*{p['model']}, {p['dtype']}, batch 1; {p['machine']}.*\n\n" + rows(header, lines)


def recall(found: dict[str, Any]) -> str:
    """Indicator, overlap and recall of each layer (Fig. 4 and 5)."""
    scorers = sorted({name for layer in found["layers"] for name in layer["recall"]})
    at = found["kept_fractions"].index(1 / 8)
    header = ["layer", "indicator s", "top 1/8 share", "overlap with the layer before"]
    header += [f"recall, {name}" for name in scorers]
    lines = []
    for n, layer in enumerate(found["layers"]):
        curves = layer["recall"]
        lines.append(
            [
                str(layer["layer"]), f"{layer['indicator']:.2f}", f"{layer['top_share']:.2f}",
                f"{found['overlap'][n - 1][n]:.2f}" if n else "-",
                *(f"{curves[s][at]:.3f}" if s in curves else "-" for s in scorers),
            ]
        )  # fmt: skip
    note = f"*{found['images']} images, {found['tokens']} tokens; recall of the top 1/8 in the kept 1/8*"
    return note + "\n\n" + rows(header, lines)


def scorers(plan: dict[str, Any]) -> str:
    """How much of the true top 1/8 each scorer finds in the layers a plan makes sparse."""
    layers = [layer for layer in plan["data"]["layers"] if layer["sparse"]]
    names = sorted({name for layer in layers for name in layer["recall"]})
    lines = [
        [str(layer["layer"]), layer["role"], *(f"{layer['recall'][name]:.3f}" for name in names)]
        for layer in layers
    ]
    means = [sum(layer["recall"][name] for layer in layers) / len(layers) for name in names]
    lines.append(["mean", "", *(f"{mean:.3f}" for mean in means)])
    return rows(["layer", "role", *(f"recall, {name}" for name in names)], lines)


def encoder(facts: dict[str, Any]) -> str:
    """What the embedded encoder scores on scenes it was not trained on."""
    held_out = facts["held_out"]
    lines = [
        [size, str(held_out["scenes"]), f"{score['miou']:.3f}", f"{score['accuracy']:.3f}"]
        for size, score in held_out["scores"].items()
    ]
    note = f"*{facts['parameters'] / 1e6:.1f} M parameters, trained on {facts['machine']}.*"
    return note + "\n\n" + rows(["resolution", "scenes", "foreground mIoU", "accuracy"], lines)


def salience(result: dict[str, Any]) -> str:
    """Which error of the features tells what harms the task, layer by layer."""
    powers = list(result["correlation"])
    header = ["sparse layer", "divergence on objects, x 1000", "on background, x 1000"]
    header += [f"error, power {p}" for p in powers]
    lines = [
        [
            str(row["layer"]), f"{1e3 * row['kl_objects']:.1f}", f"{1e3 * row['kl_background']:.2f}",
            *(f"{row[f'error_{p}']:.3f}" for p in powers),
        ]
        for row in result["layers"]
    ]  # fmt: skip
    ranks = [f"{result['correlation'][p]:.2f}" for p in powers]
    lines.append(["rank correlation with objects", "", "", *ranks])
    at = result["protocol"]["ranking"]
    return f"*{at['scenes']} scenes at {at['resolution']}.*\n\n" + rows(header, lines)


def salience_learning(result: dict[str, Any]) -> str:
    """What a distillation with and without the weights does to objects and background."""
    header = ["", "divergence on objects, x 1000", "on background, x 1000", "error, power 0", "power 8"]
    lines = [
        [
            row["name"], f"{1e3 * row['kl_objects']:.1f}", f"{1e3 * row['kl_background']:.2f}",
            f"{row['error_0']:.3f}", f"{row['error_8']:.3f}",
        ]
        for row in result["learning"]
    ]  # fmt: skip
    at = result["protocol"]["learning"]
    note = f"*{at['steps']} steps; {at['scenes']} scenes at {at['resolution']}; layers {at['layers']}.*"
    return note + "\n\n" + rows(header, lines)


def routing(result: dict[str, Any]) -> str:
    """What skipping the MLP costs, by who skips it and what takes its place."""
    header = ["through the MLP, and for the others", "mIoU", "against dense, 95 %"]
    header += ["feature error, mean", "worst image"]
    lines = [
        [
            row["name"], f"{row['miou']:.4f}", f"{row['miou_low']:+.4f} to {row['miou_high']:+.4f}",
            f"{row['relative_error']:.3f}", f"{row['relative_error_worst']:.3f}",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    p = result["protocol"]
    note = f"*{p['scenes']} scenes at {p['resolution']}; layers {p['layers']}, undistilled.*"
    return note + "\n\n" + rows(header, lines)


def tasks(result: dict[str, Any]) -> str:
    """Dense, sparse, difference and its interval, of every task in the file."""
    parts = []
    for task in ("features", "segmentation"):
        found = result[task]
        p = found["protocol"]
        note = f"*{task}: {p['images']} images at {p['resolution']}"
        if "training_images" in p:
            note += f", probe trained on {p['training_images']}"
        note += f"; {p['machine']}; PyTorch {p['versions']['torch']}, timm {p['versions']['timm']}.*"
        lines = []
        for row in [*found["details"], *found["scores"]]:
            figures = [row[key] for key in ("dense", "sparse", "difference")]
            name = f"{row['of']}: {row['metric']}" if "of" in row else row["metric"]
            span = f"{row['low']:+.4f} to {row['high']:+.4f}"
            lines.append([name, *(f"{figure:.4f}" for figure in figures), span])
        header = ["", "dense", "sparse", "difference", p["interval"].split(",")[0] + " interval"]
        parts.append(note + "\n\n" + rows(header, lines))
    return "\n\n".join(parts)


def comparison(result: dict[str, Any]) -> str:
    """Every method's rows, in the order of their speed, the dense model first."""
    header = [
        "",
        "setting",
        "trained",
        "latency",
        "speedup",
        "GFLOPs",
        result["rows"][0]["quality_name"],
    ]
    header += ["feature error, mean", "worst image"]
    lines = [
        [
            f"`{row['method']}`", row["setting"], "yes" if row["trained"] else "",
            f"{row['latency_ms']:.0f} ms", f"{row['speedup']:.2f}x", f"{row['gflops']:.1f}",
            f"{row['quality']:.4f}", f"{row['relative_error']:.3f}",
            f"{row['relative_error_worst']:.3f}",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    p = result["protocol"]
    return setting(p, p["resolution"], f"{p['images']} held-out scenes") + "\n\n" + rows(header, lines)


def front(result: dict[str, Any]) -> str:
    """The points of a search that were run end to end."""
    p = result["protocol"]
    header = ["point", "setting", "predicted", "latency", "speedup", "GFLOPs", p["quality_name"]]
    header += ["points lost", "feature error, mean", "worst image"]
    lines = [
        [
            row["point"], row["setting"], f"{row['predicted_ms']:.0f} ms", f"{row['latency_ms']:.0f} ms",
            f"{row['speedup']:.2f}x", f"{row['gflops']:.1f}", f"{row['quality']:.4f}",
            f"{100 * row['quality_lost']:+.2f}", f"{row['relative_error']:.3f}",
            f"{row['relative_error_worst']:.3f}",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    tried = f"{len(result['trials'])} trials, seed {p['search']['seed']}"
    return setting(p, p["resolution"], tried) + "\n\n" + rows(header, lines)


def families() -> str:
    """The supported families, from the registry: what is in each family's own file."""
    from sparsight.families import FAMILIES

    header = ["family", "library", "examples", "becomes sparse", "not supported, or dense"]
    lines = [
        [f"`{f.name}`", f"{f.library} {f.verified_with}", f.examples, f.sparse, f.refused]
        for f in FAMILIES
    ]
    return rows(header, lines).replace("---:", "---")


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "demo": ("demo-cpu.json", demo),
    "demo-analysis": ("analysis-demo.json", recall),
    "demo-scorers": ("../../src/sparsight/demo/weights/distilled/plan.json", scorers),
    "compare-demo": ("compare-demo.json", comparison),
    "search-demo": ("search-demo.json", front),
    "search-wide": ("search-wide.json", front),
    "camvid": ("camvid-cpu.json", camvid),
    "camvid-analysis": ("camvid-cpu.json", camvid_recall),
    "spot": ("spot-cpu.json", spot),
    "attention": ("attention-cpu.json", speed.attention),
    "module-profile": ("attention-cpu.json", speed.module_profile),
    "attention-peers": ("attention-cpu.json", speed.peers),
    "shares": ("shares-cpu.json", speed.shares),
    "tiles": ("tiles-cpu.json", speed.tiles),
    "ladder": ("ladder-cpu.json", speed.ladder),
    "ladder-short": ("ladder-cpu.json", speed.ladder_short),
    "scaling": ("scaling-cpu.json", speed.scaling),
    "preparing": ("preparing-cpu.json", speed.preparing),
    "sam2": ("sam2-cpu.json", sam2),
    "swin": ("swin-cpu.json", swin),
    "swin-stages": ("swin-cpu.json", swin_stages),
    "swin-ranking": ("swin-cpu.json", swin_ranking),
    "salience": ("salience-cpu.json", salience),
    "salience-learning": ("salience-cpu.json", salience_learning),
    "routing": ("routing-cpu.json", routing),
    "memory": ("memory-cpu.json", memory),
    "tasks": ("tasks-camvid-demo.json", tasks),
    "paper-table1": ("paper-cpu.json", lambda result: paper.costs(result, "table1")),
    "paper-table1-scores": ("paper-cpu.json", lambda result: paper.scores(result, "table1")),
    "paper-table1-demo": ("demo-cpu.json", paper.own_costs),
    "paper-table1-camvid": ("camvid-cpu.json", paper.own_costs),
    "paper-table2": ("paper-cpu.json", lambda result: paper.costs(result, "table2")),
    "paper-table2-scores": ("paper-cpu.json", lambda result: paper.scores(result, "table2")),
    "paper-table3": ("paper-cpu.json", paper.ablation),
    "paper-table3-demo": ("demo-cpu.json", paper.own_ablation),
    "paper-table3-camvid": ("camvid-cpu.json", paper.own_ablation),
    "paper-table4": ("attention-cpu.json", paper.module),
    "paper-figures": ("paper-cpu.json", paper.figures),
    "paper-figure5-demo": ("analysis-demo-distilled.json", paper.own_recall),
    "paper-figure5-camvid": (
        "camvid-cpu.json",
        lambda result: paper.own_recall(result["analysis_distilled"]),
    ),
    "encoder": ("../../src/sparsight/demo/weights/encoder.json", encoder),
}


def rendered(text: str) -> str:
    """`text` with every block filled from its results file, or from the registry."""

    def fill(match: re.Match[str]) -> str:
        if match["name"] == "families":
            return f"{match[1]}{families()}\n{match[3]}"
        file, table = TABLES[match["name"]]
        path = RESULTS / file
        body = table(json.loads(path.read_text())) if path.exists() else "*Not measured yet.*"
        return f"{match[1]}{body}\n{match[3]}"

    return BLOCK.sub(fill, text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        old = page.read_text(encoding="utf-8")
        new = rendered(old)
        if new != old:
            stale.append(page.name)
            if not check:
                page.write_text(new, encoding="utf-8")
    if not check and (result := RESULTS / "scaling-cpu.json").exists():
        plots.scaling(result, result.with_suffix(".svg"))
    if check and stale:
        sys.exit(f"not up to date, run python benchmarks/render.py: {', '.join(stale)}")
