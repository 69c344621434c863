"""Scenes as files, in the folder layouts the tasks read."""

from pathlib import Path

import numpy as np
from PIL import Image

from sparsight.demo.scenes import KINDS, draw
from sparsight.errors import SparsightError
from sparsight.files import check_writable, write_atomically
from sparsight.stages.progress import track

# Apart from one another, and from what the encoder was trained, calibrated and measured on.
FIRST_SEEDS = {"train": 60_000, "val": 80_000}


def export(out: Path, layout: str, size: tuple[int, int], train: int, val: int) -> None:
    """Write `train` and `val` scenes of `size` = (height, width) into `out`.

    "camvid": images/ and labels/ (0 background, kind + 1);  "imagefolder": one object in each picture,
    in a folder named after its kind;  "salient": one object in each picture, im/ and gt/.
    """
    if layout not in ("camvid", "imagefolder", "salient"):
        raise SparsightError(f"no layout is called {layout!r}: camvid, imagefolder or salient")
    check_writable(out)
    for split, count in (("train", train), ("val", val)):
        for number in track(range(count), f"Drawing {split}", count):
            scene = draw(FIRST_SEEDS[split] + number, size, None if layout == "camvid" else 1)
            name, folder = f"{number:05}.png", out / split
            if layout == "imagefolder":
                _save(scene.image, folder / KINDS[int(scene.labels.max()) - 1] / name)
            else:
                images, labels = ("images", "labels") if layout == "camvid" else ("im", "gt")
                truth = scene.labels if layout == "camvid" else 255 * (scene.labels > 0)
                _save(scene.image, folder / images / name)
                _save(truth, folder / labels / name)


def _save(pixels: np.ndarray, path: Path) -> None:
    picture = Image.fromarray(pixels.astype(np.uint8))
    write_atomically(path, lambda place: picture.save(place, format="PNG"))
