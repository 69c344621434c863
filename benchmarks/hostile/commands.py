"""Command lines: every verb and every option it has, with odd values, doubled, unknown, or conflicting.

The options are read from the program itself, so that a new one is tried too.  Known: what a help says
works; a refusal leaves every file as it was.
"""

import json
import random
from enum import Enum
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import typer
from benchmarks.hostile.judge import Case, files
from benchmarks.hostile.small import command, fitted_plan, model, save_folder
from benchmarks.hostile.words import (
    FLOATS,
    INTEGERS,
    NEVER,
    OTHERWISE,
    PLACES,
    SAFE,
    SETTINGS,
    SKIPPED,
    WORDS,
)  # fmt: skip
from PIL import Image

import sparsight
from sparsight.cli import app


@cache
def options(verb: str) -> tuple[Any, ...]:
    """All options of a verb, as the program declares them."""
    found = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    return tuple(
        p for p in found.params if p.opts[0].startswith("--") and p.name not in ("help", *NEVER)
    )


@cache
def verbs() -> tuple[str, ...]:
    """All verbs but those that do not end in seconds."""
    every = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return tuple(v for v in every if v not in SKIPPED)


def make(rng: random.Random, place: Path) -> Case:
    """A right command of a verb with one, two or three of its words changed."""
    furnish(place)
    verb = rng.choice(verbs())
    words = [str(word) for word in SAFE.get(verb, OTHERWISE)]
    changes = rng.choice((0, 1, 1, 1, 2, 3))
    for _ in range(changes):
        words = changed(rng, verb, words)
    given = [rooted(word, place) for word in words]
    if rng.random() < 0.02:
        verb = rng.choice(("", "optimise", "--version", "-h", "évaluer"))
    what = " ".join([verb, *words])[:200]
    return Case(
        ascii(what), lambda: command(verb, *given), lambda text: promised(verb, given, text),
        "work" if changes == 0 and verb in SAFE and can_run(verb) else "", lambda: files(place),
    )  # fmt: skip


def can_run(verb: str) -> bool:
    """Whether the libraries of a verb's own are there."""
    return verb != "encode" or find_spec("pyarrow") is not None


def furnish(place: Path) -> None:
    """What the commands name: a model, pictures, a run, data with masks."""
    save_folder(place / "model", model())
    made = np.random.default_rng(0)
    for folder in ("pictures", "data/im", "data/gt"):
        (place / folder).mkdir(parents=True)
        for number in range(4):
            pixels = made.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            if folder.endswith("gt"):
                pixels = (255 * (pixels[..., 0] > 127)).astype(np.uint8)
            Image.fromarray(pixels).save(place / folder / f"{number}.png")
    plan = fitted_plan("vit", sparsight.SVE(layers=(0,), min_tokens=0))
    sparsight.save(plan.with_(source=str(place / "model"), resolution=(32, 32)), place / "run")
    (place / "run" / "command.txt").write_text("sparsight optimize\n")
    (place / "file.txt").write_text("a file")
    (place / "loop").symlink_to(place / "loop")


def changed(rng: random.Random, verb: str, words: list[str]) -> list[str]:
    """One change of a command line."""
    way = rng.random()
    if way < 0.06 and words:
        at = rng.randrange(len(words))
        return words[:at] + words[at + 1 :]
    if way < 0.1:
        return [*words, rng.choice(("--nothing", "-x", "extra", "--", "--help=1", "--out", "--json"))]
    if way < 0.18 and not words[0].startswith("--"):
        places = (
            *PLACES,
            "demo",
            "timm:",
            "timm:nothing",
            "timm:resnet18",
            "hf:x",
            "hf:",
            "timm:vit_tiny_patch16_224",
        )
        return [rng.choice(places), *words[1:]]
    option = rng.choice(options(verb))
    name = option.opts[0]
    rest = words
    if name in words and not option.is_flag and rng.random() < 0.8:
        at = words.index(name)
        rest = words[:at] + words[at + 2 :]
    if option.is_flag:
        return [*rest, rng.choice((*option.opts, *option.secondary_opts))]
    return [*rest, name, value(rng, option)]


def value(rng: random.Random, option: Any) -> str:
    """A value of the option's kind, or of another."""
    kind = kind_of(option)
    if rng.random() < 0.1:
        return rng.choice((*INTEGERS, *WORDS, *PLACES))
    if option.name in ("setting",):
        return rng.choice(SETTINGS)
    if (
        option.name in ("trials", "steps", "repeats", "max_images", "train", "val", "batch", "rank")
        and rng.random() < 0.6
    ):
        return rng.choice(("1", "2", "0", "-1", "x"))  # a valid large one is work, and no harm
    if issubclass(kind, Enum):
        return rng.choice((*(str(one.value) for one in kind), "x", ""))
    if kind is int:
        return rng.choice(
            [
                i
                for i in INTEGERS
                if option.name not in ("trials", "steps", "train", "val", "repeats") or len(i) < 5
            ]
        )
    if kind is float:
        return rng.choice(FLOATS)
    if kind is Path:
        return rng.choice(PLACES)
    return rng.choice(WORDS)


def kind_of(option: Any) -> type:
    """What an option takes, one of them if it may be repeated."""
    found = option.type_descriptor.annotation
    return (get_args(found) or (found,))[0]


def rooted(word: str, place: Path) -> str:
    """A word that names a place of ours, as the path of it."""
    names = {*PLACES, "out", "compare.json"} - {"", "-x"}
    return str(place / word) if word in names and not word.startswith("/") else word


def promised(verb: str, words: list[str], text: str) -> str:
    """What a command that ended well must have left."""

    def after(name: str) -> Path:
        return Path(words[len(words) - 1 - words[::-1].index(name) + 1])

    if "--help" in words:
        return ""
    if verb in ("optimize", "search") and "--out" in words:
        plan = sparsight.load(after("--out"))
        if plan.to_json() != sparsight.Plan.from_json(plan.to_json()).to_json():
            return "the plan does not survive its own JSON"
    if "--json" in words and verb not in ("report", "doctor"):  # whose --json prints
        path = after("--json")
        if path.is_file():
            json.loads(path.read_text())
        elif path.exists() is False:
            return f"no {path.name}"
    return "a traceback in its words" if "Traceback" in text else ""
