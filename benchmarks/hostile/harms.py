"""What is done to a folder of labelled pictures."""

import random
import shutil
from pathlib import Path

import numpy as np
from benchmarks.hostile.small import noise
from PIL import Image

FOLDERS = {
    "camvid": ("{s}/images", "{s}/labels", ("train", "val")),
    "ade20k": ("images/{s}", "annotations/{s}", ("training", "validation")),
    "voc": ("JPEGImages", "SegmentationClass", ("train", "val")),
    "salient": ("{s}/im", "{s}/gt", ("train", "val")),
    "masks": ("images", "masks", ("",)),
    "dis": ("{s}/im", "{s}/gt", ("DIS-TR", "DIS-VD")),
    "classes": ("{s}/cat", "{s}/dog", ("train", "val")),
}


def harmed(rng: random.Random, data: Path, layout: str, harm: str, void: int) -> None:
    """Do one harm to the folder."""
    images, labels, splits = FOLDERS[layout]
    split = splits[0]  # what a probe learns from
    pictures, truths = data / images.format(s=split), data / labels.format(s=split)
    found = sorted(truths.iterdir())
    label = found[1]
    array = np.asarray(Image.open(label))
    if harm == "no labels":
        shutil.rmtree(truths)
    elif harm == "no pictures":
        shutil.rmtree(pictures)
    elif harm == "empty":
        shutil.rmtree(data)
        data.mkdir()
    elif harm == "one missing":
        label.unlink()
    elif harm == "one extra":
        Image.fromarray(array).save(truths / "zz.png")
    elif harm == "doubled":
        Image.fromarray(array).save(label.with_suffix(".bmp"))
    elif harm == "other size":
        Image.fromarray(array[:-1]).save(label)
    elif harm == "jpeg labels":
        for path in found:
            Image.open(path).convert("L").save(path.with_suffix(".jpg"))
            path.unlink()
    elif harm == "colour labels":
        Image.fromarray(noise(rng, *array.shape[:2])).save(label)
    elif harm == "out of range":
        Image.fromarray(np.full(array.shape, 77, np.uint8)).save(label)
    elif harm in ("all void", "one class"):
        value = max(0, void) if harm == "all void" else 1
        for path in data.rglob("*.png"):
            if str(path.parent).endswith(tuple(labels.format(s=s) for s in splits)):
                Image.fromarray(np.full(array.shape[:2], value % 256, np.uint8)).save(path)
    elif harm == "empty label":
        label.write_bytes(b"")
    elif harm == "damaged label":
        label.write_bytes(label.read_bytes()[: rng.randrange(20, 60)])
    elif harm == "damaged picture":
        sorted(pictures.iterdir())[0].write_bytes(rng.randbytes(99))
    elif harm == "hidden files":
        for name in (".DS_Store", "._t0.png", "Thumbs.db"):
            (pictures / name).write_bytes(rng.randbytes(60))
        (truths / ".ipynb_checkpoints").mkdir()
        (data / "__MACOSX").mkdir()
    elif harm == "notes":
        (truths / "README.txt").write_text("labels")
    elif harm == "16 bit":
        Image.fromarray((array if array.ndim == 2 else array[..., 0]).astype(np.uint16)).save(label)
    elif harm == "float":
        Image.fromarray(array[..., 0] / 1 if array.ndim > 2 else array.astype(np.float32)).convert(
            "F"
        ).save(label.with_suffix(".tif"))
        label.unlink()
    elif harm == "upper case":
        label.rename(label.with_suffix(".PNG"))
    elif harm == "deep":
        (truths / "sub").mkdir()
        label.rename(truths / "sub" / label.name)
    elif harm == "link loop":
        (truths / "loop").symlink_to(truths)
    elif harm == "folder named as file":
        (truths / "zz.png").mkdir()
    elif harm == "one picture":
        for path in [*found[1:], *sorted(pictures.iterdir())[1:]]:
            path.unlink(missing_ok=True)
    elif harm == "odd name":
        for path in (label, *(p for p in pictures.iterdir() if p.stem == label.stem)):
            if path.exists() and layout not in ("voc", "classes"):
                path.rename(path.with_name(f"ü \udce9 [b]{path.suffix}"))
    elif harm == "palette":
        flat = Image.fromarray(array if array.ndim == 2 else array[..., 0]).convert("P")
        flat.save(label)
    elif harm == "alpha":
        Image.fromarray(array).convert("LA").save(label)
