"""Folders of labelled pictures: layouts, palettes, void, names, partners missing, sizes, damage.

Known: a plan that keeps everything differs from dense by nothing; labels that are no numbers of classes,
have no partner, or another size are refused; scores are shares.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.hostile.harms import FOLDERS, harmed
from benchmarks.hostile.judge import Case, files
from benchmarks.hostile.small import fingerprint, model, noise
from PIL import Image

import sparsight

SIDES = (32, 48)
ALL = sparsight.SVE(layers=(0, 1, 2), keep=1.0, min_tokens=0)
HARM = {  # name -> whether it must be refused (None: either)
    "": False, "no labels": True, "no pictures": True, "one missing": True, "one extra": True,
    "other size": True, "jpeg labels": True, "colour labels": True, "out of range": True,
    "all void": None, "one class": None, "empty label": None, "damaged label": None,
    "damaged picture": None,
    "hidden files": False, "notes": False, "16 bit": None, "float": True, "upper case": None,
    "deep": None,
    "doubled": True, "link loop": None, "folder named as file": None, "one picture": None, "empty": True,
    "odd name": False, "palette": None, "alpha": None,
}  # fmt: skip


def make(rng: random.Random, place: Path) -> Case:
    """One data folder, one harm, one task."""
    layout = rng.choice(list(FOLDERS))
    harm = rng.choice(list(HARM)) if rng.random() < 0.85 else ""
    data = place / rng.choice(("data", "dä ta", "d.a.t.a", "[data]"))
    options: dict[str, Any] = {}
    task = {"classes": "classification"}.get(layout, "segmentation")
    if layout in ("salient", "masks", "dis"):
        task = "salient"
    if task == "segmentation":
        options = {"classes": 3, "void": rng.choice((255, 255, 11, 0, -1, 3))}
    (classes if layout == "classes" else labelled)(rng, data, layout)
    void = options.get("void", 255)
    harmed(rng, data, layout, harm, void)
    if rng.random() < 0.3:
        options |= rng.choice(
            ({"max_images": 1}, {"max_train_images": 1}, {"own_probe": True}, {"worst": 0}, {"seed": -1},
             {"max_images": 10**9}, {"worst": 10**9})
        )  # fmt: skip
        if task != "segmentation" and "own_probe" in options:
            options.pop("own_probe")
    before = fingerprint(model())

    def call() -> Any:
        return sparsight.evaluate(model(), ALL, task, data, SIDES, **options)

    def flaw(answer: Any) -> str:
        if fingerprint(model()) != before:
            return "the model was changed"
        for row in (*answer["scores"], *answer["details"]):
            if not all(0 <= row[arm] <= 1 for arm in ("dense", "sparse")):
                return f"{row['metric']} is {row['dense']}"
            if abs(row["difference"]) > 1e-6 and "own_probe" not in options:
                return f"{row['metric']} differs by {row['difference']} where nothing is skipped"
        if harm == "all void" and task == "segmentation" and void >= 0 and not answer["notes"]:
            return "nothing is said of labels that are all void"
        return ""

    must: Any = {True: "refuse", False: "", None: ""}[HARM[harm] if applies(harm, layout) else False]
    usual = layout == "camvid" and not harm and options.get("void") == 255 and len(options) == 2
    what = f"{task}, {layout}, {harm or 'whole'}, {options}"
    return Case(what, call, flaw, "work" if usual else must, lambda: files(place) | fingerprint(model()))


def applies(harm: str, layout: str) -> bool:
    """Whether a harm means the same in this layout."""
    if layout == "classes":
        return harm == "empty"
    if layout in ("salient", "masks", "dis"):
        return harm in (
            "no labels",
            "no pictures",
            "one missing",
            "one extra",
            "other size",
            "doubled",
            "empty",
        )
    return layout != "voc" or harm not in ("jpeg labels", "one extra", "doubled")


def labelled(rng: random.Random, data: Path, layout: str) -> None:
    """Pictures whose colour is their label, in halves."""
    images, labels, splits = FOLDERS[layout]
    for split in splits:
        names = []
        for number in range(3):
            name = f"{split[:1]}{number}"
            pixels, truth = noise(rng, *SIDES), np.zeros(SIDES, np.uint8)
            column = rng.choice((16, 32))
            truth[:, column:] = 1 + number % 2 if layout in ("camvid", "ade20k", "voc") else 255
            pixels[..., 0] = 60 * truth
            for folder, array, end in (
                (images, pixels, ".jpg" if layout == "voc" else ".png"),
                (labels, truth, ".png"),
            ):
                path = data / folder.format(s=split) / f"{name}{end}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
            names.append(name)
        if layout == "voc":
            lists = data / "ImageSets/Segmentation"
            lists.mkdir(parents=True, exist_ok=True)
            (lists / f"{split}.txt").write_text("\n".join(names) + "\n")


def classes(rng: random.Random, data: Path, layout: str) -> None:
    """Folders named after their class."""
    for split in ("train", "val"):
        for shade, name in ((40, "cat"), (200, "dog")):
            for number in range(3):
                path = data / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(noise(rng, *SIDES) // 4 + np.uint8(shade) // 2).save(path)
