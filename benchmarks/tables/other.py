"""Other tables: attention statistics, salience, memory, SAM 2, tasks, the encoder, the families."""

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from benchmarks.tables.markdown import number, rows, setting


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


def quantised(result: dict[str, Any]) -> str:
    """Speed eager and compiled, quality, and who is kept."""
    header = ["", "latency", "speedup", "compiled", "speedup", "mIoU", "95 % of the difference",
              "feature error", "worst", "kept as in float32"]  # fmt: skip
    lines = [
        [
            f"`{row['name']}`", f"{row['latency_ms']:.0f} ms", f"{row['speedup']:.2f}x",
            f"{row['compiled_latency_ms']:.0f} ms", f"{row['compiled_speedup']:.2f}x",
            f"{row['miou']:.3f}", f"{row['miou_low']:+.3f} to {row['miou_high']:+.3f}",
            f"{row['relative_error']:.3f}", f"{row['relative_error_worst']:.3f}",
            "-" if row["overlap"] is None else f"{100 * row['overlap']:.1f} %",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    p = result["protocol"]
    more = (p["resolution"], f"{p['scenes']} held-out scenes", f"sparse: {p['method']}")
    return setting(p, *more) + "\n\n" + rows(header, lines)


def serving(result: dict[str, Any]) -> str:
    """First calls, sizes in turn, and two models at once; dense beside sparse."""
    dense, sparse = result["rows"]

    def line(what: str, key: str, unit: str = "ms", digits: int = 0) -> list[str]:
        return [what, *(f"{row[key]:.{digits}f} {unit}" for row in (dense, sparse))]

    lines = [
        line("first call of a fresh copy", "first_ms"), line("calls that follow", "steady_ms"),
        *(
            [f"{size} px, {'alone' if how == 'alone_ms' else 'between other sizes'}",
             *(f"{row['sizes'][size][how]:.0f} ms" for row in (dense, sparse))]
            for size in dense["sizes"] for how in ("alone_ms", "mixed_ms")
        ),
        line("two models, one after the other", "one_after_the_other", "pictures/s", 2),
        line("two models, a thread each", "two_threads", "pictures/s", 2),
    ]  # fmt: skip
    p = result["protocol"]
    more = (p["resolution"], f"sparse: {p['method']}")
    return setting(p, *more) + "\n\n" + rows(["", dense["name"], sparse["name"]], lines)


def sam2_windows(result: dict[str, Any]) -> str:
    """The same with windows dropped, of several models."""
    header = ["model", "", "latency", "speedup", "GFLOPs", "FLOP limit"]
    lines = [
        [
            row["model"] if row["arm"].startswith("dense") else "", row["arm"],
            f"{row['latency_ms'] / 1e3:.2f} s", f"{row['speedup']:.2f}x", f"{row['gflops']:.0f}",
            f"{row['limit']:.2f}x",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    p, size = result["protocol"], result["rows"][0]["resolution"]
    return setting(p, size, "random weights: only speed is meant") + "\n\n" + rows(header, lines)


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
    known = any(layer.get("linear_rest") is not None for layer in found["layers"])
    header = ["layer", "indicator s", "top 1/8 share", "overlap with the layer before"]
    header += ["rest, linear"] * known
    header += [f"recall, {name}" for name in scorers]
    lines = []
    for n, layer in enumerate(found["layers"]):
        curves = layer["recall"]
        lines.append(
            [
                str(layer["layer"]), f"{layer['indicator']:.2f}", f"{layer['top_share']:.2f}",
                f"{found['overlap'][n - 1][n]:.2f}" if n else "-",
                *[number(layer.get("linear_rest"), ".3f")] * known,
                *(f"{curves[s][at]:.3f}" if s in curves else "-" for s in scorers),
            ]
        )  # fmt: skip
    note = f"*{found['images']} images, {found['tokens']} tokens; recall of the top 1/8 in the kept 1/8*"
    return note + "\n\n" + rows(header, lines)


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


def hostile(result: dict[str, Any]) -> str:
    """What became of the hostile inputs, by kind."""
    outcomes = ["right", "refused", "traceback", "long", "wrong", "hang", "crash"]
    header = ["inputs of", "tried", *outcomes, "slowest"]
    lines = [
        [
            row["kind"].replace("_", " "), str(row["inputs"]), *(str(row[name]) for name in outcomes),
            f"{row['slowest_ms'] / 1e3:.1f} s",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    p = result["protocol"]
    note = f"*{p['inputs']} inputs; PyTorch {p['versions']['torch']}, timm {p['versions']['timm']}; "
    return note + f"at {p['revision']}.*\n\n" + rows(header, lines)


def kills(result: dict[str, Any]) -> str:
    """How the long verbs ended after a kill, a full disk, or in a folder that may not be written."""
    ways = list(dict.fromkeys(row["way"] for row in result["rows"]))
    verbs = list(dict.fromkeys(row["verb"] for row in result["rows"]))
    found = {(row["verb"], row["way"]): row for row in result["rows"]}

    def cell(verb: str, way: str) -> str:
        row = found.get((verb, way))
        if row is None:
            return "-"
        tried = sum(count for name, count in row.items() if name not in ("way", "verb"))
        return f"{row['same']} of {tried}"

    lines = [[verb, *(cell(verb, way) for way in ways)] for verb in verbs]
    p = result["protocol"]
    note = f"*{p['trials']} trials; PyTorch {p['versions']['torch']}; at {p['revision']}.*\n\n"
    return note + rows(["ended alike", *ways], lines)


def doctor(result: dict[str, Any]) -> str:
    """What `sparsight doctor` prints of a result that its --json wrote."""
    from sparsight.cli.diagnosis import show

    with redirect_stdout(StringIO()) as printed:
        show(result)
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    return "\n".join(("```text", *lines, "```"))


def families() -> str:
    """The supported families, from the registry: what is in each family's own file."""
    from sparsight.families import FAMILIES

    header = ["family", "library", "examples", "becomes sparse", "not in this family"]
    lines = [
        [f"`{f.name}`", f"{f.library} {f.verified_with}", f.examples, f.sparse, f.refused]
        for f in FAMILIES
    ]
    return rows(header, lines).replace("---:", "---")
