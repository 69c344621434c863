"""Plans and run folders: fields of plan.json changed, tensors missing or other, files cut off, old ones.

Known: an unchanged plan comes back equal and gives the same features; whatever is applied can be taken
back exactly; keep=1 is dense; what cannot be reported is said.
"""

import json
import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch
from benchmarks.hostile.changes import JSON, changed, other_tensors
from benchmarks.hostile.judge import Case, files
from benchmarks.hostile.small import command, features, fingerprint, fitted_plan, model, pictures
from safetensors.torch import load_file, save_file

import sparsight
from sparsight.run import weights_file

PLANS = {
    "sve": ("vit", (sparsight.SVE(layers=(0, 2), completion="map", min_tokens=0),)),
    "reuse": ("vit", (sparsight.SVE(layers=(0, 1), groups=((0, 1),), min_tokens=0, score="linear"),)),
    "exit": ("vit", (sparsight.EarlyExit(after=(0,), min_tokens=0),)),
    "bound": ("vit", (sparsight.EarlyExit(after=(0,), score="map-error", bound=0.3, min_tokens=0),)),
    "routing": ("dino", (sparsight.MLPRouting(min_tokens=0),)),
    "both": ("vit", (sparsight.SVE(layers=(0,), min_tokens=0), sparsight.EarlyExit(after=(1,),
        min_tokens=0))),
    "tome": ("vit", (sparsight.ToMe(merge=0.1, min_tokens=0),)),
    "cls": ("dino", (sparsight.ClsTopK(min_tokens=0),)),
    "spot": ("vit", (sparsight.SPOT(min_tokens=0, completion="map"),)),
    "windows": ("swin", (sparsight.SparseViT(completion="map", score="map-error"),)),
    "keep all": ("vit", (sparsight.SVE(layers=(0, 1, 2), keep=1.0, min_tokens=0),)),
}  # fmt: skip
OTHERS = ("measure.json", "analysis.json", "front.json", "losses.json", "demo.json",
    "evaluate-features.json",
          "command.txt", "look.safetensors", "evaluate-x.json", "compare.json")  # fmt: skip


@cache
def plan_of(name: str) -> sparsight.Plan:
    """A plan with everything in it."""
    host, methods = PLANS[name]
    return fitted_plan(host, *methods)


@cache
def results() -> dict[str, Any]:
    """What a real run's files hold, by name."""
    plan = plan_of("sve")
    measured = sparsight.measure(model(), plan, pictures(), ((32, 48),), repeats=1)
    found = {"measure.json": measured, "losses.json": [1.0, 0.5]}
    found["analysis.json"] = sparsight.analyze(model(), pictures()).model_dump(mode="json")
    found["front.json"] = {"protocol": measured["protocol"], "rows": front_rows(), "trials": []}
    found["compare.json"] = {"protocol": measured["protocol"], "rows": front_rows(), "left_out": {}}
    return found


def front_rows() -> list[dict[str, Any]]:
    """Two rows of settings that were run side by side."""
    row = {
        "point": "00", "setting": "1 layer", "latency_ms": 2.0, "latency_q1_ms": 1.0,
        "latency_q3_ms": 3.0,
        "speedup": 1.5, "gflops": 1.0, "quality": 0.9, "relative_error": 0.1, "quality_lost": 0.1,
        "relative_error_worst": 0.2, "method": "sve", "trained": False, "quality_name": "cosine",
        "predicted_ms": 2.0, "search_error": 0.1,
    }  # fmt: skip
    return [row, row | {"point": "01", "method": "dense", "speedup": 1.0}]


def make(rng: random.Random, place: Path) -> Case:
    """One run folder, one change; then it is loaded, applied, reported or measured."""
    name = rng.choice(list(PLANS))
    run = sparsight.save(plan_of(name), place / "run")
    way = rng.choice((fields, fields, fields, tensors, tensors, bytes_, shapes, reported, nothing))
    what, must = way(rng, run, name)
    if way is reported:
        return Case(what, lambda: command("report", run), page_at(run), "", lambda: files(place))
    return Case(f"{name}: {what}", lambda: used(name, run), lambda a: unlike(name, what, *a), must,  # type: ignore[arg-type]
                lambda: files(place) | fingerprint(model(PLANS[name][0])))  # fmt: skip


def used(name: str, run: Path) -> tuple[sparsight.Plan, Any, bool]:
    """The loaded plan, the features with it, and whether the model came back as it was."""
    of = model(PLANS[name][0])
    before = fingerprint(of)
    plan = sparsight.load(run)
    sparsight.apply(of, plan)
    try:
        found = features(of)
    finally:
        sparsight.restore(of)
    return plan, found, before == fingerprint(of)


def unlike(name: str, what: str, plan: sparsight.Plan, found: torch.Tensor, same: bool) -> str:
    """What is wrong with a plan that was taken."""
    of = model(PLANS[name][0])
    if not same:
        return "restore did not bring the model back"
    if found.shape != features(of).shape or not found.isfinite().all():
        return "features of another shape, or not finite"
    if sparsight.Plan.from_json(plan.to_json()).to_json() != plan.to_json():
        return "the plan does not survive its own JSON"
    if what == "nothing":
        if plan != plan_of(name):
            return "another plan than was saved"
        wanted = features(of)
        bias = plan.weights.get("model.norm.bias")
        if (
            name == "keep all"
            and bias is not None
            and not torch.allclose(
                found - wanted,
                (bias - of.norm.bias).expand_as(found),
                atol=1e-4,  # type: ignore[union-attr, operator]
            )
        ):
            return "keeping everything is not dense"
    return ""


def nothing(rng: random.Random, run: Path, name: str) -> tuple[str, str]:
    return "nothing", "work"


def fields(rng: random.Random, run: Path, name: str) -> tuple[str, str]:
    """Values in plan.json; mostly the weights are named after the new text, as a hand would do."""
    path = run / "plan.json"
    what, content = changed(rng, json.loads(path.read_text()), rng.choice((1, 1, 2)))
    text = json.dumps(content, indent=rng.choice((None, 2)))
    old = next(run.glob("weights-*"), None)
    path.write_text(text)
    if old and rng.random() < 0.9:
        old.rename(run / weights_file(text))
    return what, ""


def tensors(rng: random.Random, run: Path, name: str) -> tuple[str, str]:
    """The weights alone."""
    path = next(run.glob("weights-*"))
    what, other = other_tensors(rng, load_file(path))
    save_file(other, path)
    return what, "refuse"


def shapes(rng: random.Random, run: Path, name: str) -> tuple[str, str]:
    """The weights, and what plan.json says of them."""
    path = next(run.glob("weights-*"))
    what, other = other_tensors(rng, load_file(path))
    content = json.loads((run / "plan.json").read_text())
    content["data"]["tensors"] = {
        key: {"shape": list(v.shape), "dtype": str(v.dtype).removeprefix("torch.")}
        for key, v in other.items()
    }
    text = json.dumps(content)
    (run / "plan.json").write_text(text)
    path.unlink()
    save_file(other, run / weights_file(text))
    harmless = what.startswith(("half", "double", "added")) or "model.norm.bias" in what
    return f"both: {what}", "" if harmless else "refuse"


def bytes_(rng: random.Random, run: Path, name: str) -> tuple[str, str]:
    """Bytes of one of the files, or the file itself."""
    path = rng.choice(sorted(run.iterdir()))
    data = path.read_bytes()
    way = rng.choice(("cut", "flip", "empty", "gone", "zeros", "link", "folder", "twice"))
    if way in ("gone", "link", "folder"):
        path.unlink()
    if way == "link":
        outside = run.parent / "outside"
        outside.write_bytes(data)
        path.symlink_to(outside)
    elif way == "folder":
        path.mkdir()
    elif way != "gone":
        at = rng.randrange(len(data))
        path.write_bytes({
            "cut": data[:at], "flip": data[:at] + rng.randbytes(1) + data[at + 1 :], "empty": b"",
            "zeros": b"\0" * len(data), "twice": data + data,
        }[way])  # fmt: skip
    return f"{way} {path.suffix}", "" if way == "flip" else "refuse"


def reported(rng: random.Random, run: Path, name: str) -> tuple[str, str]:
    """A run with results, one of which was changed, for its page."""
    for file, content in results().items():
        if rng.random() < 0.8:
            (run / file).write_text(json.dumps(content))
    path = run / rng.choice((*OTHERS, "plan.json"))
    content = results().get(path.name) or (
        json.loads(path.read_text()) if path.exists() else results()["measure.json"]
    )
    if rng.random() < 0.25:
        data = rng.choice(
            (b"", b"{", b"[]", b"null", b"{}", b"\xff", b"[" * 10**5, b'"x"', b"[1, 2]", b"1e999")
        )
        what = repr(data[:9])
    else:
        what, content = changed(rng, content, rng.choice((1, 2)))
        if rng.random() < 0.1:
            content = rng.choice(JSON)
        data = json.dumps(content).encode()
    if rng.random() < 0.05:
        shutil.rmtree(run)
        run.mkdir()
    path.write_bytes(data)
    return f"report of {path.name}: {what}", ""


def page_at(run: Path) -> Any:
    """A page is there, and whole."""

    def flaw(_: str) -> str:
        page = run / "report.html"
        return (
            "" if page.is_file() and page.read_text().rstrip().endswith("</html>") else "no whole page"
        )

    return flaw
