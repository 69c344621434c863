"""What the tests of encoding share: a small run, pictures in three sizes with broken ones among them."""

import io

import numpy as np
import torch
from conftest import SMALL, plan_of
from PIL import Image

import sparsight
from sparsight.encode import EncoderSettings, How
from sparsight.encode import encode as run_encode

SIZES = ((96, 128), (128, 96), (64, 64))  # height and width: grids of 6x8, 8x6 and 4x4 tokens
BROKEN = (5, 12)  # the first is no picture, the second is cut off
COUNT = 24
SPARSE_FROM = 30  # tokens: the smallest size runs dense


def make_run(folder):
    """A model as a folder, and a run of it; returns the run's folder."""
    import timm
    from timm.models import save_for_hf

    arguments = {k: v for k, v in SMALL.items() if k != "dynamic_img_size"}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **arguments).eval()
    save_for_hf(model, folder / "model", model_args=arguments, safe_serialization=True)
    settings = sparsight.SVE(layers=(1, 2), keep=0.25, min_tokens=SPARSE_FROM)
    plan = plan_of(model, settings).with_(source=str(folder / "model"), resolution=(96, 128))
    return sparsight.save(plan, folder / "run")


def picture_bytes(number, kind="PNG"):
    """The file of one picture of noise, broken or not."""
    rng = np.random.default_rng(number)
    buffer = io.BytesIO()
    pixels = rng.integers(0, 255, (*SIZES[number % 3], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    content = buffer.getvalue()
    return {BROKEN[0]: b"no picture", BROKEN[1]: content[: len(content) // 2]}.get(number, content)


def fill_folder(folder, count=COUNT):
    """Pictures as files, some of them a folder down."""
    for number in range(count):
        path = folder / ("b" if number % 2 else "a") / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(number))
    return folder


def encode(run, images, out, how=None, **settings):
    """As the command line does it, each picture at its own size."""
    given = {"model": str(run), "max_tokens": 48, "batch": 3, "threads": 1} | settings
    return run_encode(EncoderSettings(**given), images, out, how or How(part_pictures=7))


def content_of(out):
    """Everything in a sink that counts, by the file's name: the bytes of tables and maps."""
    places = (path for name in ("features", "maps") for path in (out / name).rglob("*"))
    found = {str(p.relative_to(out)): p.read_bytes() for p in places if p.is_file()}
    return found | {"quarantine": (out / "quarantine.parquet").read_bytes()}
