"""Checkpoints: the same weights under other keys, heads and dtypes, and with damage.

Known: one prefix before all keys, another head or none, another float dtype change nothing of the
features; a block's weight that is missing, of another shape, or NaN is refused.
"""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.hostile.judge import Case, files
from benchmarks.hostile.small import SIZE, build, features, model, save_folder
from safetensors.torch import save_file
from torch import Tensor

import sparsight
from sparsight.models import load_model

PREFIXES = (
    "", "module.", "backbone.", "model.", "encoder.", "teacher.backbone.", "student.backbone.",
    "visual.trunk.",
    "image_encoder.", "vit.", "a.b.c.d.", "_orig_mod.", "module.backbone.", "net.0.", "state_dict.",
    "é.", "..",
)  # fmt: skip
CODES = {torch.float32: 1e-5, torch.float64: 1e-5, torch.bfloat16: 0.08, torch.float16: 0.02}
Weights = dict[str, Tensor]


def change(key: str) -> str:
    """A key of a block."""
    return f"blocks.1.{key}"


def nan(rng: random.Random, weights: Weights) -> Weights:
    key = rng.choice([k for k in weights if k.startswith("blocks")])
    bad = weights[key].clone()
    bad.view(-1)[0] = rng.choice((torch.nan, torch.inf))
    return weights | {key: bad}


def lacking(rng: random.Random, weights: Weights) -> Weights:
    gone = rng.sample([k for k in weights if k.startswith("blocks")], rng.choice((1, 2, 10)))
    return {k: v for k, v in weights.items() if k not in gone}


def reshaped(rng: random.Random, weights: Weights) -> Weights:
    key = rng.choice([k for k in weights if k.startswith("blocks") and weights[k].ndim == 2])
    others = (
        weights[key].t().contiguous(),
        weights[key][:-1],
        weights[key][None],
        weights[key].flatten(),
    )
    odd = [o for o in others if o.shape != weights[key].shape]
    return weights | {key: rng.choice(odd).clone()}


def renamed(rng: random.Random, weights: Weights) -> Weights:
    old, new = rng.choice(
        (("blocks", "layers"), ("attn.qkv", "attn.in_proj"), ("norm1", "ln_1"), ("mlp.fc1", "mlp.0"))
    )
    return {k.replace(old, new): v for k, v in weights.items()}


# name -> what is done to the weights, and whether features stay (False: is refused; None: either)
CHANGES: dict[str, tuple[Callable[[random.Random, Weights], Weights], bool | None]] = {
    "same": (lambda r, w: w, True),
    "head of 10": (lambda r, w: w | {"head.weight": torch.randn(10, 24),
    "head.bias": torch.zeros(10)}, True),
    "decoder beside": (lambda r, w: w | {"decoder.0.weight": torch.randn(4, 4)}, None),
    "optimizer beside": (lambda r, w: w | {"optimizer.step": torch.zeros(1)}, None),
    "a block more": (lambda r, w: w | {"blocks.3.norm1.weight": torch.ones(24)}, None),
    "NaN": (nan, False),
    "lacking": (lacking, False),
    "reshaped": (reshaped, False),
    "renamed": (renamed, False),
    "integers": (lambda r, w: {k: v.to(r.choice((torch.int8, torch.int64))) for k, v in w.items()},
        False),
    "bool": (lambda r, w: {k: v > 0 for k, v in w.items()}, False),
    "float8": (lambda r, w: {k: v.to(torch.float8_e4m3fn) for k, v in w.items()}, None),
    "zeros": (lambda r, w: {k: torch.zeros_like(v) for k, v in w.items()}, None),
    "empty": (lambda r, w: {}, False),
    "huge values": (lambda r, w: {k: v * 1e30 for k, v in w.items()}, False),
    "two models": (lambda r, w: {f"{p}.{k}": v.clone() for p in ("student", "teacher") for k,
        v in w.items()}, None),
    "other position": (lambda r, w: w | {"pos_embed": torch.randn(1, 10, 24)}, None),
    "no position": (lambda r, w: {k: v for k, v in w.items() if k != "pos_embed"}, False),
    "half prefixed": (lambda r, w: {("backbone." if n % 2 else "") + k: v for n, (k,
    v) in enumerate(w.items())}, None),
}  # fmt: skip
DAMAGE = (
    "truncated",
    "flipped",
    "empty",
    "text",
    "pickle",
    "long head",
    "head of lies",
    "suffix",
    "folder",
    "missing",
)


def make(rng: random.Random, place: Path) -> Case:
    """One checkpoint for a small model of timm's, handed over as on the command line."""
    folder = save_folder(place / "model", model())
    weights: Weights = {k: v.clone() for k, v in build(num_classes=0).state_dict().items()}
    weights = {k: v + 0.01 for k, v in weights.items()}  # other weights than the folder's
    wanted = build()
    wanted.load_state_dict(weights)
    name = rng.choice(list(CHANGES)) if rng.random() < 0.7 else "same"
    changed, stays = CHANGES[name]
    prefix = rng.choice(PREFIXES)
    dtype = rng.choice(list(CODES)) if rng.random() < 0.4 else torch.float32
    made = {prefix + k: v.to(dtype) if v.is_floating_point() and name in ("same", "head of 10") else v
            for k, v in changed(rng, weights).items()}  # fmt: skip
    damage = rng.choice(DAMAGE) if rng.random() < 0.25 else ""
    path = place / "checkpoint.safetensors"
    save_file({k: v.contiguous() for k, v in made.items()}, path)
    path = damaged(rng, path, damage)

    def call() -> Tensor:
        loaded = load_model(str(folder), SIZE, checkpoint=path)
        sparsight.analyze(loaded.model, [torch.randn(3, *SIZE)], 1)
        return features(loaded.model)

    def flaw(found: Tensor) -> str:
        if not found.isfinite().all():
            return "features are not finite"
        if stays is not True or damage:
            return ""
        off = ((found - features(wanted)).norm() / features(wanted).norm()).item()
        return "" if off <= CODES[dtype] else f"features are {off:.3f} off"

    must: Any = {True: "work", False: "refuse", None: ""}[stays]
    if damage:
        must = "" if damage == "flipped" else "refuse"
    what = f"{name}, prefix {prefix!r}, {dtype}, {damage or 'whole'}"
    return Case(what, call, flaw, must, lambda: files(place))


def damaged(rng: random.Random, path: Path, damage: str) -> Path:
    """The checkpoint with damage; its path."""
    data = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(data[: rng.randrange(len(data))])
    elif damage == "flipped":
        at = rng.randrange(len(data))
        path.write_bytes(data[:at] + rng.randbytes(1) + data[at + 1 :])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif damage == "pickle":
        torch.save({"a": torch.zeros(2)}, path)
    elif damage == "long head":
        path.write_bytes(struct.pack("<Q", 2**60) + data[8:])
    elif damage == "head of lies":
        head = {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
        text = json.dumps(head).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text)
    elif damage == "suffix":
        return path.rename(path.with_suffix(rng.choice((".pt", ".bin", ".pth", ".ckpt", "", ".npz"))))
    elif damage in ("folder", "missing"):
        path.unlink()
        if damage == "folder":
            path.mkdir()
    return path
