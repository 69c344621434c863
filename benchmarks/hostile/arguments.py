"""Python arguments: every public function and settings, with values of other kinds and out of range.

The functions and their parameters are read from the package, so that a new one is tried too.  Known: a
refusal leaves the model and all files as they were, and what is taken gives what it promises.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.hostile.calls import calls, settings
from benchmarks.hostile.judge import Case, files
from benchmarks.hostile.small import (
    SIZE,
    features,
    fingerprint,
    fitted_plan,
    model,
    odd,
    pictures,
    save_noise,
    short,
)
from PIL import Image
from torch import nn

import sparsight

SVE = sparsight.SVE(layers=(0,), min_tokens=0)
NUMBERS = (-1, 0, 1, 2, 3, 0.5, 1.0, 1.5, 10**9, float("nan"), float("inf"), 1e-9, True)
LAYERS = (
    (0,),
    (0, 1),
    (1, 0),
    (0, 0),
    (-1,),
    (5,),
    (0, 10**9),
    [1],
    range(2),
    "all",
    "auto",
    "none",
    {0, 1},
    (0.5,),
    (),
)


def values(rng: random.Random, name: str, usual: Any) -> Any:
    """Another value of a parameter: near its kind, or of any kind."""
    if rng.random() < 0.4:
        return odd(rng)
    if name in ("layers", "after", "stages", "taps", "groups"):
        return rng.choice((*LAYERS, ((0, 1),), ((0,), (1,)), ((1, 0),), (((0,),),)))
    if name in ("keep", "keep_queries", "sparsity", "rho", "bound"):
        return rng.choice(
            (
                *NUMBERS,
                (0.5,),
                (0.5, 0.25),
                (0.25, 0.5),
                (2.0,),
                "half",
                (),
                ((0.5,), (0.5,)),
                "calibrated",
            )
        )
    if name in ("resolution", "resolutions"):
        one = rng.choice(
            (
                SIZE,
                (32, 32),
                (33, 32),
                (0, 0),
                (-16, 16),
                (16,),
                (16, 16, 16),
                32,
                "32x32",
                (1e3, 32),
                [32, 48],
                None,
            )
        )
        return (one,) if name == "resolutions" and rng.random() < 0.8 else one
    if name in ("module",):
        return rng.choice(
            ("", "blocks", "blocks.0", "nothing", "blocks.0.attn", ".", "norm", "..", "patch_embed")
        )
    if name == "model":
        return rng.choice(
            (
                nn.Linear(2, 2),
                nn.Sequential(),
                "demo",
                None,
                torch.nn.Identity,
                lambda x: x,
                [model()],
                model("swin"),
            )
        )
    if name in ("what", "plan", "method", "methods", "plans", "start"):
        return rng.choice((
            SVE, [SVE], (SVE, SVE), [], "sve", "nothing", sparsight.SVE,
            sparsight.Plan(methods=(SVE,)), [None], {"sve": SVE},
            fitted_plan("swin", sparsight.SparseViT()), fitted_plan("vit", SVE),
            sparsight.LowerResolution(), Path("."),
            sparsight.SVE(layers=(9,)), sparsight.ToMe(), (SVE, sparsight.EarlyExit(after=(0,),
            completion="last")),
        ))  # fmt: skip
    if name in ("images", "data", "folder", "out"):
        return rng.choice(
            (pictures(), [], pictures()[:1], "nowhere", "", Path("/dev/null"), 3, [1], {}, "\0")
        )
    if isinstance(usual, int | float):
        return rng.choice(NUMBERS)
    if isinstance(usual, str):
        return rng.choice(
            (usual + "x", usual.upper(), "", " ", "all", "map", "last", "exact", "magnitude")
        )
    return odd(rng)


OFTEN = (
    "apply",
    "analyze",
    "measure",
    "evaluate",
    "optimize",
    "save",
    "ImageFolder",
    "Plan",
    "Budget",
    "load",
)


def make(rng: random.Random, place: Path) -> Case:
    """One call with one or two arguments changed."""
    for number in range(2):
        save_noise(rng, place / "pairs" / "im" / f"{number}.png")
        (place / "pairs" / "gt").mkdir(exist_ok=True)
        mask = (np.indices(SIZE).sum(0) % 2 * 255).astype(np.uint8)
        Image.fromarray(mask).save(place / "pairs" / "gt" / f"{number}.png")
    sparsight.save(fitted_plan("vit", SVE), place / "run")
    every = calls(place)
    name = rng.choice((*every, *OFTEN))
    function, usual = every[name]
    given = dict(usual)
    many = rng.choice((0, 1, 1, 1, 1, 2))
    for key in rng.sample(sorted(usual), min(many, len(usual))):
        given[key] = values(rng, key, usual[key])
    odd_ones = {k: v for k, v in given.items() if v is not usual[k]}
    names = [k for k in OPTIONS if k in given]
    if rng.random() < 0.03 and name == "evaluate":
        given["nothing"] = 1
        names.append("nothing")
    of = model()
    before = fingerprint(of), fingerprint(model("swin"))

    def call() -> Any:
        answer = function(**given)
        changed = sparsight.attach.applied(of) is not None
        found = (answer, features(of) if changed else None, changed)
        if changed:
            sparsight.restore(of)
        return found

    def flaw(found: tuple[Any, Any, bool]) -> str:
        answer, seen, changed = found
        if (fingerprint(of), fingerprint(model("swin"))) != before:
            return "the model was changed"
        if changed != (name == "apply"):
            return f"a plan is {'' if changed else 'not '}applied"
        if seen is not None and not seen.isfinite().all():
            return "features are not finite"
        return flawed(answer)

    what = f"{name}({', '.join(f'{k}={short(v)}' for k, v in odd_ones.items()) or 'as usual'})"
    must: Any = "work" if not odd_ones and "nothing" not in given and name != "restore" else ""
    return Case(what, call, flaw, must, lambda: files(place) | fingerprint(of))


OPTIONS = ("worst", "seed")


def flawed(answer: Any, depth: int = 0) -> str:
    """A number in an answer that is none, or a plan that does not survive."""
    if isinstance(answer, sparsight.Plan):
        again = sparsight.Plan.from_json(answer.to_json())
        return "" if again.to_json() == answer.to_json() else "the plan does not survive its own JSON"
    if type(answer) in settings():
        again = type(answer).model_validate_json(answer.model_dump_json())
        return "" if again == answer else "the settings do not survive their own JSON"
    if isinstance(answer, float) and answer != answer:
        return "a figure is NaN"
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list | tuple) and depth < 6:
        return next((f for f in (flawed(one, depth + 1) for one in answer[:50]) if f), "")
    return ""
