"""The table of docs/choose.md: what to take for which pictures, each with a figure from results."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tables.markdown import rows

RESULTS = Path(__file__).parents[1] / "results"
LADDER = "ladder-cpu-avx2"  # the one that has the larger models
Row = dict[str, Any]
BEST = "sve + early-exit"
MOST = 0.015  # of mIoU: a row that loses more is no advice


def choices() -> str:
    """One line for each kind of work: what to take first, and what was measured of it."""
    header = ["pictures", "what is read", "take first", "measured", "on", "page"]
    lines = [
        ["1K, small objects on much background", "every token", "`SVE` in the first "
         "layers, `EarlyExit` after a sixth of the depth", _judged("demo-cpu", "name", BEST),
         _machine("demo-cpu"), "[early-exit.md](early-exit.md)"],
        ["1K, objects on a quarter of it or more", "every token", "`SVE` in the first layers, "
         "`DensityPeaks` with a map after a sixth", _fullest("sve + density-peaks"),
         _machine("fuller-cpu"), "[early-exit.md](early-exit.md)"],
        ["photographs, every pixel has a class", "every token", "`SVE`, and `EarlyExit` in "
         "three steps by `map-error`", _best("camvid-cpu"),
         _machine("camvid-cpu"), "[results.md](results.md)"],
        ["the same, where a point is the most", "every token", "`SVE(completion=\"map\")` in few layers",
         _judged("camvid-cpu", "setting", "6 layers keep 0.1875, sampled, map"), _machine("camvid-cpu"),
         "[results.md](results.md)"],
        ["1K, through a large ViT", "every token or the class token", "`SVE`, and reuse groups",
         _ladder("timm:vit_base_patch14_dinov2 1036 px, batch 1", "+ reuse"), _machine(LADDER),
         "[speed.md](speed.md)"],
        ["518 px, through a ViT-S", "anything", "nothing, or `compare` first",
         _ladder("timm:vit_small_patch14_dinov2 518 px, batch 1", "sparse attention, sampled"),
         _machine(LADDER), "[speed.md](speed.md)"],
        ["2K, SAM 2", "masks from prompts", "`SVE` in its global blocks",
         _of("sam2-cpu", lambda r: r["resolution"] == "2048x2048" and r["arm"] == "keep 1/8, sampled"),
         _machine("sam2-cpu"), "[sam2.md](sam2.md)"],
        ["scenes, through a Swin", "maps of a stage", "`SparseViT` by `standout`, with maps",
         _best("swin-cpu"), _machine("swin-cpu"), "[sparsevit.md](sparsevit.md)"],
        ["any of these, in an engine", "as above", "export the run to OpenVINO or ONNX Runtime",
         _of("export-cpu", lambda r: (r["engine"], r["name"]) == ("openvino", BEST))
         + " over dense there", _machine("export-cpu"), "[export.md](export.md)"],
    ]  # fmt: skip
    return rows(header, lines, words=len(header))


def _result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _machine(name: str) -> str:
    return _result(name)["protocol"]["machine"]


def _of(name: str, fits: Callable[[Row], bool]) -> str:
    """The speedup of the first row that fits."""
    return f"{next(row for row in _result(name)['rows'] if fits(row))['speedup']:.2f}x"


def _ladder(case: str, arm: str) -> str:
    return _of(LADDER, lambda row: (row["case"], row["arm"]) == (case, arm)) + ", speed only"


def _points(row: Row, dense: Row) -> str:
    return f"{row['speedup']:.2f}x, {100 * (row['miou'] - dense['miou']):+.1f} points"


def _judged(name: str, key: str, value: str) -> str:
    found = _result(name)["rows"]
    return _points(next(row for row in found if row.get(key) == value), found[0])


def _best(name: str) -> str:
    """The fastest row that loses little."""
    dense, *found = _result(name)["rows"]
    return _points(max((r for r in found if r["miou"] >= dense["miou"] - MOST), key=_speed), dense)


def _fullest(method: str) -> str:
    """The fastest row of a method on the fullest level that loses little."""
    found = _result("fuller-cpu")["rows"]
    own = [row for row in found if row["level"] == found[-1]["level"]]
    return _points(
        max(
            (r for r in own if r["method"] == method and r["miou"] >= own[0]["miou"] - MOST), key=_speed
        ),
        own[0],
    )


def _speed(row: Row) -> float:
    return row["speedup"]
