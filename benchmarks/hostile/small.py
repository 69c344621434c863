"""Small random models, pictures and runs that the hostile inputs are made of, and odd values."""

import contextlib
import hashlib
import io
import json
import random
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from benchmarks.hostile.judge import Refused
from PIL import Image
from torch import Tensor, nn

import sparsight
from sparsight.attach import family_in
from sparsight.cli import app

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 0, "dynamic_img_size": True}
SIZE = (32, 48)  # of pictures, in pixels: 2 x 3 patches
NAMES = {"vit": "vit_tiny_patch16_224", "dino": "vit_small_patch16_dinov3", "swin": "swin"}


def rng_of(kind: str, number: int) -> random.Random:
    """The chances of input `number` of a kind, the same at every run."""
    return random.Random(f"{kind}:{number}")


def build(name: str = "vit", **changes: Any) -> nn.Module:
    """A small model with weights that attend to something."""
    torch.manual_seed(0)
    if name == "swin":
        from timm.models.swin_transformer import SwinTransformer

        settings = {"window_size": (2, 2), "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2)}
        model = SwinTransformer(img_size=SIZE, num_classes=0, **settings | changes)
    else:
        model = timm.create_model(NAMES[name], **SMALL | changes)
    for parameter in model.eval().parameters():
        if parameter.ndim < 2:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        else:
            parameter.data.mul_(2)
    return model


@cache
def model(name: str = "vit") -> nn.Module:
    """The one that inputs share: each must leave it as it was."""
    return build(name)


def pictures(count: int = 2, size: tuple[int, int] = SIZE) -> list[Tensor]:
    """Normalised pictures of noise."""
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(3, *size, generator=generator) for _ in range(count)]


@torch.inference_mode()
def features(of: nn.Module, picture: Tensor | None = None) -> Tensor:
    """Final tokens of a picture."""
    picture = pictures(1)[0] if picture is None else picture
    like = next(of.parameters())
    return family_in(of).features(of, picture[None].to(like.dtype))


def fingerprint(of: nn.Module) -> dict[str, Any]:
    """All of a model that a refusal must leave as it was."""
    found: dict[str, Any] = {"training": [part.training for part in of.modules()]}
    found["classes"] = [id(type(part)) for part in of.modules()]
    found["attributes"] = [sorted(part.__dict__) for part in of.modules()]
    found["gradients"] = [p.requires_grad for p in of.parameters()]
    for name, value in of.state_dict().items():
        found[name] = hash(value.float().numpy().tobytes())
    return found


def noise(rng: random.Random, height: int, width: int, bands: int = 3) -> np.ndarray:
    """Random bytes (height, width, bands), or (height, width) of one band."""
    made = np.random.default_rng(rng.getrandbits(32))
    shape = (height, width) if bands == 1 else (height, width, bands)
    return made.integers(0, 256, shape, dtype=np.uint8)


def save_noise(rng: random.Random, path: Path, height: int = SIZE[0], width: int = SIZE[1]) -> None:
    """A PNG of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(rng, height, width)).save(path)


def save_folder(folder: Path, of: nn.Module | None = None) -> Path:
    """A model as timm's save_for_hf writes it."""
    from timm.models import save_for_hf

    of = build() if of is None else of
    arguments = {k: v for k, v in SMALL.items() if k != "num_classes"}
    save_for_hf(of, str(folder), model_args=arguments, safe_serialization=True)
    return folder


def fitted_plan(name: str = "vit", *methods: Any) -> sparsight.Plan:
    """A plan with made-up tensors for everything that its methods bring, and the model's identity."""
    from sparsight.families import family_of
    from sparsight.fit import named_shapes, with_layers
    from sparsight.identity import identity

    of = model(name)
    family = family_of(of)
    plan = with_layers(sparsight.Plan(methods=methods), of, family)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        key: 0.05 * torch.randn(shape, generator=generator)
        for key, shape in named_shapes(plan, of, family).items()
    }
    if name != "swin":
        tensors["model.norm.bias"] = of.norm.bias.detach() + 0.5
    return plan.with_(
        weights=tensors, model=identity(of, family), resolution=SIZE, recipe={"images": 2},
        versions={"sparsight": sparsight.__version__}, reasons=("made up",),
    )  # fmt: skip


def command(*words: Any) -> str:
    """Run a command of the program in this process; what it printed, or Refused with its sentence."""
    words = tuple(map(str, words))
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["sparsight", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            app(list(words))
        code: Any = 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = argv
    if code == 0:
        return out.getvalue() + err.getvalue()
    if code in (1, 2) and "--verbose for the details" not in err.getvalue():  # else a library's error
        raise Refused(sentence_of(err.getvalue(), code))
    raise RuntimeError(f"exit code {code!r}: {err.getvalue()[-300:]}")


def sentence_of(err: str, code: int) -> str:
    """The refusal in what a command wrote: after `sparsight: `, or inside the usage's box."""
    if code == 1:
        return (
            err.rpartition("sparsight: ")[2].strip() if "sparsight: " in err else f"no sentence: {err}"
        )
    boxed = [line.strip("│ ") for line in err.splitlines() if line.startswith("│")]
    return " ".join(boxed).strip() or f"no sentence: {err}"


ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 7, 10**12, -(10**30), 0.5, 1.5, -0.25, 1e308, float("nan"),
    float("inf"), "", "x", "1", "0.5", "sve", "ü\udce9", "\0", "a" * 5000, b"", b"x", [], (), {}, set(),
    [1], ["x"], (0,), (-1, 2), (1.5, 2), [None], {"a": 1}, [[1, 2], [3]], range(3), range(0), object(),
    object, print, Path("/nowhere/at/all"), Path("/dev/null"), Ellipsis, 1j, np.float32(0.5),
    np.zeros(0), np.zeros((2, 2)), frozenset((1,)),
)  # fmt: skip


def odd(rng: random.Random) -> Any:
    """A value that few expect; tensors and iterators are made anew."""
    if rng.random() < 0.15:
        fresh = (
            torch.zeros(0),
            torch.tensor(3),
            torch.full((3,), torch.nan),
            iter([1, 2]),
            nn.Linear(2, 2),
        )
        return rng.choice(fresh)
    return rng.choice(ODD)


def short(value: Any, most: int = 60) -> str:
    """A value as a line may have it."""
    text = ascii(value) if not isinstance(value, Tensor | nn.Module) else f"{type(value).__name__}"
    if isinstance(value, Tensor):
        text += f"{tuple(value.shape)}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def digest(*parts: Any) -> int:
    """A number from anything that can be written."""
    return int(hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:8], 16)
