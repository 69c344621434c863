"""Model folders: config.json and the processor's file changed, weights missing, of another model.

Known: a change that says nothing about the model leaves the features; a normalisation that is given is
the one that is used, and one that cannot be is refused.
"""

import json
import math
import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch
from benchmarks.hostile.changes import changed
from benchmarks.hostile.judge import Case, files
from benchmarks.hostile.small import SIZE, features, model, save_folder
from torch import nn

import sparsight
from sparsight.models import load_model

HF = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48,
    "patch_size": 16, "image_size": 32,
}  # fmt: skip
KINDS = {
    "vit": "ViTModel",
    "dinov2": "Dinov2Model",
    "clip": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
}
CONFIG, WEIGHTS = "config.json", "model.safetensors"
MEANS: tuple[Any, ...] = (
    [0.5] * 3, [0.4, 0.5, 0.6], [0.5], [], [0.5] * 4, "0.5", None, 0.5, [None] * 3, ["a"] * 3,
        [1e400] * 3,
    {"r": 0.5}, [-1, 2, 3], [[0.5] * 3],
)  # fmt: skip
STDS: tuple[Any, ...] = ([0.2, 0.3, 0.25], [0.0] * 3, [0.5, 0.5], [-1.0] * 3, *MEANS[:3], *MEANS[5:11])
NESTED = ("preprocessor_config.json", "processor_config.json")


@cache
def hf_model(kind: str) -> nn.Module:
    """A small model of transformers."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    found = getattr(transformers, KINDS[kind])
    return found(found.config_class(**HF)).eval()


def make(rng: random.Random, place: Path) -> Case:
    """One folder, one change."""
    kind = rng.choice(("timm", "timm", *KINDS))
    size = SIZE if kind == "timm" else (32, 32)
    whole = model() if kind == "timm" else hf_model(kind)
    folder = place / rng.choice(("model", "mö del", "a:b", "timm", "-x"))
    if kind == "timm":
        save_folder(folder, whole)
    else:
        whole.save_pretrained(folder)  # type: ignore[operator]
    what, must, given = rng.choice((config, config, config, processor, processor, parts))(
        rng, folder, kind
    )
    picture = torch.randn(3, *size, generator=torch.Generator().manual_seed(3))

    def call() -> Any:
        loaded = load_model(str(folder), size)
        sparsight.analyze(loaded.model, [picture], 1)
        return loaded, features(loaded.model, picture)

    def flaw(answer: Any) -> str:
        loaded, found = answer
        if not found.isfinite().all():
            return "features are not finite"
        for name, values in (("mean", loaded.mean), ("std", loaded.std)):
            if len(values) != len(loaded.mean) or not all(
                isinstance(v, int | float) and math.isfinite(v) for v in values
            ):
                return f"{name} is {values}"
        if any(v <= 0 for v in loaded.std):
            return f"std is {loaded.std}"
        if given and (tuple(loaded.mean), tuple(loaded.std)) != given:
            return f"normalisation is {loaded.mean}, {loaded.std}, not {given}"
        if must == "work" and not torch.allclose(found, features(whole, picture), atol=1e-4):
            return "other features"
        return ""

    return Case(f"{kind}: {what}", call, flaw, must, lambda: files(place))  # type: ignore[arg-type]


def config(rng: random.Random, folder: Path, kind: str) -> tuple[str, str, Any]:
    """Another config.json."""
    path = folder / CONFIG
    if rng.random() < 0.15:
        text = rng.choice(
            (b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b'"timm"', b"{}")
        )
        path.write_bytes(text)
        return f"config.json is {text[:12]!r}", "" if text == b"{}" else "refuse", None
    content = json.loads(path.read_text())
    what, content = changed(rng, content)
    if rng.random() < 0.2:
        content["note"] = "of mine"
    path.write_text(json.dumps(content))
    return f"config.json: {what}", "", None


def processor(rng: random.Random, folder: Path, kind: str) -> tuple[str, str, Any]:
    """Another normalisation, where this library keeps it."""
    mean, std = rng.choice(MEANS), rng.choice(STDS)
    said: dict[str, Any] = {"mean": mean, "std": std}
    if kind == "timm":
        content = json.loads((folder / CONFIG).read_text())
        content["pretrained_cfg"] |= said
        (folder / CONFIG).write_text(json.dumps(content))
        name = CONFIG
    else:
        name = rng.choice(NESTED)
        said = {f"image_{k}": v for k, v in said.items()}
        if rng.random() < 0.2:
            said["do_normalize"] = rng.choice((False, True, "no", None))
        text = json.dumps({"image_processor": said} if name == NESTED[1] else said)
        if rng.random() < 0.1:
            text = rng.choice(("", "[]", "{", "null", text[:-4], "[" * 100_000))
        (folder / name).write_text(text)
        if "do_normalize" in said or not text.startswith("{") or text.count("}") < text.count("{"):
            return f"{name}: {text[:80]}", "", None
    fits = all(
        isinstance(v, list)
        and len(v) == 3
        and all(isinstance(x, int | float) and math.isfinite(x) for x in v)
        for v in (mean, std)
    )
    good = fits and min(std) > 0
    return f"{name}: {mean} {std}", "work" if good else "", (tuple(mean), tuple(std)) if good else None


def parts(rng: random.Random, folder: Path, kind: str) -> tuple[str, str, Any]:
    """Files missing, added, or of another kind."""
    weights, config = folder / WEIGHTS, folder / CONFIG
    which = rng.choice(("no weights", "no config", "pickle", "index of nothing", "empty weights",
        "link", "loop",
                        "weights are a folder", "code", "other weights", "both", "extra", "empty",
                        "truncated"))  # fmt: skip
    must = "refuse"
    if which == "no weights":
        weights.unlink()
    elif which == "no config":
        config.unlink()
    elif which == "pickle":
        weights.unlink()
        torch.save({}, folder / "pytorch_model.bin")
    elif which == "index of nothing":
        weights.unlink()
        index = {
            "metadata": {},
            "weight_map": {"a": "../../etc/passwd", "b": "model-00001-of-00002.safetensors"},
        }
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    elif which == "empty weights":
        weights.write_bytes(b"")
    elif which == "truncated":
        weights.write_bytes(weights.read_bytes()[: rng.randrange(weights.stat().st_size)])
    elif which == "link":
        weights.rename(folder.parent / "elsewhere.safetensors")
        weights.symlink_to(folder.parent / "elsewhere.safetensors")
        must = "work"
    elif which == "loop":
        weights.unlink()
        weights.symlink_to(weights)
    elif which == "weights are a folder":
        weights.unlink()
        weights.mkdir()
    elif which == "code":
        (folder / "modeling.py").write_text("raise SystemExit('code of a model was run')")
        content = json.loads(config.read_text())
        content["auto_map"] = {"AutoModel": "modeling.Model", "AutoConfig": "modeling.Config"}
        config.write_text(json.dumps(content))
        must = ""
    elif which == "other weights":
        other = hf_model("clip") if kind != "clip" else hf_model("vit")
        other.save_pretrained(folder.parent / "other")  # type: ignore[operator]
        shutil.copy(folder.parent / "other" / WEIGHTS, weights)
    elif which == "both":
        torch.save({}, folder / "pytorch_model.bin")
        must = "work"
    elif which == "extra":
        (folder / "README.md").write_text("# model")
        (folder / ".DS_Store").write_bytes(b"\0")
        must = "work"
    elif which == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    return which, must, None
