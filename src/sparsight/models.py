"""What MODEL means on the command line: `demo`, `timm:NAME`, or a local folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparsight.errors import SparsightError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, and how its pictures are normalised."""

    model: "nn.Module"
    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    random_weights: bool


def load_model(
    source: str,
    resolution: tuple[int, int],
    pretrained: bool = False,
    checkpoint: Path | None = None,
) -> LoadedModel:
    """Load MODEL for pictures of `resolution`.

    `timm:NAME` has seeded random weights unless `pretrained` (fetched from the hub) or `checkpoint` (a
    local safetensors file) is given.  A folder needs the config.json and model.safetensors that timm's
    `save_for_hf` writes.
    """
    if source == "demo":
        from sparsight.demo import encoder

        return LoadedModel(encoder.load(), source, encoder.MEAN, encoder.STD, False)
    kind, _, name = source.partition(":")
    if kind == "timm" and name:
        if checkpoint is not None and checkpoint.suffix != ".safetensors":
            raise SparsightError(f"{checkpoint} is not a .safetensors file; pickles are not read")
        model = _create(name, resolution, pretrained, checkpoint)
        return _loaded(model, source, random_weights=not pretrained and checkpoint is None)
    folder = Path(source)
    if folder.is_dir():
        for needed in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / needed).is_file():
                raise SparsightError(
                    f"{folder} has no {needed}: write it with timm's save_for_hf(..., "
                    "safe_serialization=True)"
                )
        return _loaded(_create(f"local-dir:{folder}", resolution, True, None), source, False)
    raise SparsightError(
        f"MODEL {source!r} is neither 'demo', nor 'timm:NAME', nor a folder with {CONFIG_FILE} and "
        f"{WEIGHTS_FILE}"
    )


def import_timm():
    """timm, with a clear sentence if it is not there."""
    from sparsight._torchvision import repair

    repair()
    try:
        import timm
    except ImportError as error:
        raise SparsightError(f"timm is needed for this and cannot be imported: {error}") from None
    return timm


def _create(
    name: str, resolution: tuple[int, int], pretrained: bool, checkpoint: Path | None
) -> "nn.Module":
    import torch

    timm = import_timm()
    path = str(checkpoint) if checkpoint else ""
    size = {"img_size": resolution, "dynamic_img_size": True}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return timm.create_model(name, pretrained=pretrained, checkpoint_path=path, **size)
    except TypeError:
        raise UnsupportedModelError(
            f"{name} takes no image size, so it is no plain vision transformer; see the README for "
            "the supported families"
        ) from None
    except Exception as error:  # timm, the hub and safetensors each have their own kinds
        raise SparsightError(f"cannot load {name}: {error}") from error


def _loaded(model: "nn.Module", source: str, random_weights: bool) -> LoadedModel:
    from sparsight.images import IMAGENET_MEAN, IMAGENET_STD

    cfg = getattr(model, "pretrained_cfg", None) or {}
    mean, std = cfg.get("mean", IMAGENET_MEAN), cfg.get("std", IMAGENET_STD)
    return LoadedModel(model.eval(), source, tuple(mean), tuple(std), random_weights)
