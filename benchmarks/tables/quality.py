"""The tables that set quality beside speed: the embedded encoder, CamVid, SPOT and the small Swin."""

from typing import Any

from benchmarks.tables.markdown import MOVED, NONE, TOOK, moved, number, rows, setting, share, span, took

SHORT = ("dense", "sve-completed", "early-exit-last-value", "early-exit", "sve + early-exit")
MIOU = ["mIoU", "against dense, 95 %"]


def quality(result: dict[str, Any], *more: str) -> str:
    """Any table of rows with a method or a name, a setting, speed and quality."""
    first = result["rows"][0]
    labels, fitted = "accuracy" in first, "completing_s" in first
    header = ["", "setting", *TOOK, *MIOU]
    header += (["accuracy"] if labels else []) + MOVED + (["maps fitted in"] if fitted else [])
    lines = []
    for row in result["rows"]:
        line = [f"`{row.get('name', row.get('method'))}`", row["setting"], *took(row)]
        line += [f"{row['miou']:.4f}", span(row)]
        line += ([f"{row['accuracy']:.4f}"] if labels else []) + moved(row)
        if fitted:
            seconds = row["completing_s"]
            line.append(f"{seconds:.0f} s" if seconds and seconds > 0.1 else NONE)
        lines.append(line)
    return setting(result["protocol"], *more) + "\n\n" + rows(header, lines, words=2)


def demo(result: dict[str, Any]) -> str:
    p = result["protocol"]
    return quality(result, p["resolution"], f"{p['scenes']} held-out scenes")


def short(result: dict[str, Any]) -> str:
    """The rows of the demo that a first reader needs, without what only an expert reads."""
    lines = [
        [
            f"`{row['name']}`",
            row["setting"] or NONE,
            *took(row)[:2],
            f"{row['miou']:.3f}",
            span(row, "+.3f"),
        ]
        for row in result["rows"]
        if row["name"] in SHORT
    ]
    header = ["", "setting", *TOOK[:2], *MIOU]
    return setting(result["protocol"]) + "\n\n" + rows(header, lines, words=2)


def best(result: dict[str, Any]) -> str:
    """The row that comes first in the README, as a sentence."""
    by_name = {row["name"]: row for row in result["rows"]}
    dense, found = by_name["dense"], by_name["sve + early-exit"]
    return (
        f"**{found['speedup']:.1f} times as fast** ({dense['latency_ms']:.0f} ms to "
        f"{found['latency_ms']:.0f} ms), mIoU {found['miou']:.3f} where the dense model has "
        f"{dense['miou']:.3f}, on {result['protocol']['scenes']} pictures it has never seen; no "
        "training, no labels."
    )


def completion(result: dict[str, Any]) -> str:
    p = result["protocol"]
    note = f"maps from {p['calibration_pictures']} calibration scenes"
    return quality(result, p["resolution"], f"{p['scenes']} held-out scenes", note)


def by_resolution(result: dict[str, Any]) -> str:
    """Maps of one resolution at others."""
    p, lines = result["protocol"], []
    for row in result["by_resolution"]:
        name = f"`{row['method']}`" if row["setting"] else "dense"
        maps = (
            NONE if not row["setting"] else p["resolution"] if row["fitted"] != "there" else "the same"
        )
        line = [row["resolution"], name, row["setting"], maps, f"{row['miou']:.4f}", span(row)]
        lines.append([*line, *moved(row)])
    note = f"*{p['resolution_scenes']} held-out scenes of each size; {p['machine']}.*"
    header = ["judged at", "", "setting", "maps fitted at", *MIOU, *MOVED]
    return note + "\n\n" + rows(header, lines, words=4)


def fuller(result: dict[str, Any]) -> str:
    """One line for each setting: what it does on pictures of every level."""
    levels = list(dict.fromkeys(row["level"] for row in result["rows"]))
    found = {(row["level"], row["arm"]): row for row in result["rows"]}
    header = ["", "mean speedup"]
    for level in levels:
        filled = share(found[level, "dense"]["objects_share"])
        header += [f"{level} ({filled} of the picture): stay", "speedup", "points", "error"]
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in result["rows"]):
        own = [found[level, arm] for level in levels]
        line = [_named(own[0]), f"{sum(r['speedup'] for r in own) / len(own):.2f}x"]
        for level, row in zip(levels, own, strict=True):
            points = 100 * (row["miou"] - found[level, "dense"]["miou"])
            line += [share(row["staying"]), f"{row['speedup']:.2f}x", f"{points:+.1f}"]
            line.append(f"{row['relative_error']:.3f}")
        lines.append(line)
    return _fuller_note(result) + "\n\n" + rows(header, lines)


def fuller_spans(result: dict[str, Any]) -> str:
    """The intervals and the worst pictures behind it."""
    lines = [
        [
            row["level"],
            _named(row),
            *took(row),
            f"{row['miou']:.4f}",
            span(row),
            *moved(row),
        ]
        for row in result["rows"]
    ]
    return rows(["level", "setting", *TOOK, *MIOU, *MOVED], lines, words=2)


def _named(row: dict[str, Any]) -> str:
    """Its methods and their settings."""
    return f"`{row['method']}` {row['setting']}".strip() if row["setting"] else "dense"


def _fuller_note(result: dict[str, Any]) -> str:
    p = result["protocol"]
    return setting(
        p, p["resolution"], f"{p['scenes']} held-out scenes of each level, {p['timed_pictures']} timed",
        f"calibrated on {p['calibration_pictures']} scenes, {p['calibration']}",
    )  # fmt: skip


def camvid(result: dict[str, Any]) -> str:
    p = result["protocol"]
    note = f"maps from {p['calibration_pictures']} training frames"
    return quality(result, p["resolution"], f"{p['frames']} validation frames", note)


def spot(result: dict[str, Any]) -> str:
    """Both kinds of networks, with and without maps, and an untrained ranking beside them."""
    header = ["networks", "left in place", "setting", *TOOK, "own cost", "saved", "accuracy", *MIOU]
    lines = []
    for row in result["rows"]:
        own = share(row["own_share"]) if "own_share" in row else NONE
        left = {"last": "last value", "map": "map"}.get(row.get("completion", ""), "")
        name = {"none": "`cls-topk`"}.get(row.get("networks", "dense"), row.get("networks", "dense"))
        line = [name, left, row["setting"], *took(row), own, share(row["flops_saved"])]
        line += [f"{row['accuracy']:.4f}", f"{row['miou']:.4f}", span(row), *moved(row)]
        lines.append(line)
    p = result["protocol"]
    note = setting(p, p["resolution"], f"{p['scenes']} held-out scenes")
    return note + "\n\n" + rows([*header, *MOVED], lines, words=3)


def swin(result: dict[str, Any]) -> str:
    """Speed and quality of every sparsity, as published, completed and adapted."""
    lines = []
    for row in result["rows"]:
        line = [row["setting"], row["way"], share(row["windows_dropped"]), *took(row)]
        lines.append([*line, f"{row['miou']:.3f}", span(row, "+.3f"), *moved(row)])
    p = result["protocol"]
    note = setting(p, p["resolution"], f"{p['scenes']} held-out scenes")
    header = ["sparsity by stage", "score, left in place", "windows dropped", *TOOK, *MIOU, *MOVED]
    return note + "\n\n" + rows(header, lines, words=2)


def swin_ranking(result: dict[str, Any]) -> str:
    """What the strongest windows hold of the objects, by the score that ranks."""
    lines = [[name, *map(share, shares)] for name, shares in result["objects_found"].items()]
    return rows(["score", *(f"stage {n}" for n in (1, 2, 3, 4))], lines)


def comparison(result: dict[str, Any]) -> str:
    """Every method's rows."""
    header = ["", "setting", "trained", *TOOK, result["rows"][0]["quality_name"], "worst", *MOVED]
    lines = [
        [
            f"`{row['method']}`", row["setting"], "yes" if row["trained"] else "", *took(row),
            f"{row['quality']:.4f}", number(row.get("quality_worst"), ".4f"), *moved(row),
        ]
        for row in result["rows"]
    ]  # fmt: skip
    if all(line[7] == NONE for line in lines):  # a mean IoU has no worst picture
        header, lines = header[:7] + header[8:], [line[:7] + line[8:] for line in lines]
    p = result["protocol"]
    note = setting(p, p["resolution"], f"{p['images']} held-out scenes")
    return note + "\n\n" + rows(header, lines, words=3)


def searched(result: dict[str, Any], most_lost: float = 0.005) -> str:
    """The fastest point of a search that loses at most so much, as a sentence."""
    good = [row for row in result["rows"] if row["quality_lost"] <= most_lost]
    found = max(good, key=lambda row: row["speedup"])
    tried = result["protocol"]["search"]["trials"]
    lost, low, high = (100 * found[key] for key in ("quality_lost", "miou_low", "miou_high"))
    return (
        f"A search over combinations ({tried} tried, none trained) finds "
        f"**{found['speedup']:.1f} times as fast** with {lost:.1f} points of mIoU lost "
        f"({low:+.1f} to {high:+.1f} at 95 %), on scenes that it has not seen "
        "([docs/search.md](docs/search.md))."
    )


def front(result: dict[str, Any]) -> str:
    """The points of a search that were run end to end."""
    p = result["protocol"]
    header = ["point", "setting", "predicted", *TOOK, *MIOU, "points lost", *MOVED]
    lines = [
        [
            row["point"], row["setting"], f"{row['predicted_ms']:.0f} ms", *took(row),
            f"{row['miou']:.4f}", span(row), f"{100 * row['quality_lost']:+.2f}", *moved(row),
        ]
        for row in result["rows"]
    ]  # fmt: skip
    tried = f"{len(result['trials'])} trials, seed {p['search']['seed']}"
    return setting(p, p["resolution"], tried) + "\n\n" + rows(header, lines, words=2)
