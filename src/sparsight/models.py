"""What MODEL means on the command line: `demo`, `timm:NAME`, `hf:NAME`, or a local folder."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sparsight.errors import SparsightError
from sparsight.families.base import is_instance

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

    `timm:NAME` has seeded random weights unless `pretrained` (fetched from the hub) or `checkpoint` is
    given; `hf:NAME` is a model of transformers, only with `pretrained`.  A folder needs the config.json
    and safetensors that timm's `save_for_hf` or transformers' `save_pretrained` writes.  `checkpoint` is
    a local safetensors file with other weights for MODEL, such as `sparsight finetune` writes.  No code
    of a checkpoint is run, and no pickle is read.
    """
    if checkpoint is not None and checkpoint.suffix != ".safetensors":
        raise SparsightError(f"{checkpoint} is not a .safetensors file; pickles are not read")
    if checkpoint is not None and not checkpoint.is_file():
        raise SparsightError(f"there is no file {checkpoint}")
    kind, _, name = source.partition(":")
    folder = Path(source)
    if kind == "timm" and name:
        model = _create(name, resolution, pretrained, checkpoint)
        return _loaded(model, source, random_weights=not pretrained and checkpoint is None)
    if source != "demo" and folder.is_dir() and "model_type" not in _config(folder):
        return _loaded(_create(f"local-dir:{folder}", resolution, True, checkpoint), source, False)
    loaded = _other_than_timm(source, pretrained)
    if checkpoint is not None:
        _replace_weights(loaded.model, checkpoint)
    return loaded


def _other_than_timm(source: str, pretrained: bool) -> LoadedModel:
    """The embedded encoder, or a model of transformers from the hub or a folder."""
    if source == "demo":
        from sparsight.demo import encoder

        return LoadedModel(encoder.load(), source, encoder.MEAN, encoder.STD, False)
    kind, _, name = source.partition(":")
    if kind == "hf" and name:
        if not pretrained:
            raise SparsightError(
                f"{source} is fetched from the hub, which is done with --pretrained only; or give a "
                "folder written by save_pretrained"
            )
        return _from_transformers(name, source, local=False)
    if Path(source).is_dir():
        return _from_transformers(source, source, local=True)
    raise SparsightError(
        f"MODEL {source!r} is neither 'demo', nor 'timm:NAME', nor 'hf:NAME', nor a folder with "
        f"{CONFIG_FILE} and {WEIGHTS_FILE}"
    )


def _replace_weights(model: "nn.Module", checkpoint: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_model as load_weights

    try:
        load_weights(model, checkpoint)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise SparsightError(f"cannot load {checkpoint}: {' '.join(str(error).split())}") from error


def _config(folder: Path) -> dict[str, object]:
    """The config.json of a folder that has safetensors too."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise SparsightError(
            f"{folder} has no {CONFIG_FILE}: write it with timm's save_for_hf(..., "
            "safe_serialization=True) or transformers' save_pretrained"
        )
    if not any((folder / name).is_file() for name in (WEIGHTS_FILE, f"{WEIGHTS_FILE}.index.json")):
        pickles = sorted(
            p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")
        )
        found = f"only pickled weights ({pickles[0]}), which are not read" if pickles else "no weights"
        raise SparsightError(f"{folder} has {found}: save the model again, as {WEIGHTS_FILE}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SparsightError(f"cannot read {path}: {error}") from None
    if not isinstance(config, dict):
        raise SparsightError(f"{path} holds no object")
    return config


def _from_transformers(name: str, source: str, local: bool) -> LoadedModel:
    """A model of transformers, in float32, from a folder or the hub."""
    from sparsight.images import IMAGENET_MEAN, IMAGENET_STD

    transformers = import_transformers()
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # its report of missing weights is checked below
    try:
        model, info = transformers.AutoModel.from_pretrained(
            name, local_files_only=local, use_safetensors=True, trust_remote_code=False,
            dtype="float32", output_loading_info=True,
        )  # fmt: skip
        settings = transformers.utils.cached_file(
            name, "preprocessor_config.json", local_files_only=local,
            _raise_exceptions_for_missing_entries=False,
        )  # fmt: skip
        pictures = json.loads(Path(settings).read_text(encoding="utf-8")) if settings else {}
    except Exception as error:  # transformers, the hub and safetensors each have their own kinds
        raise SparsightError(f"cannot load {name}: {' '.join(str(error).split())}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    # A classifier's backbone has no trained pooler; anything else missing would be random.
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing:
        raise SparsightError(f"{name} lacks {len(missing)} weights, the first: {missing[0]}")
    mean, std = (pictures.get(key) for key in ("image_mean", "image_std"))
    return LoadedModel(
        model.eval(), source, tuple(mean or IMAGENET_MEAN), tuple(std or IMAGENET_STD), False
    )


def import_transformers():
    """transformers, with a clear sentence if it is not there."""
    from sparsight._torchvision import repair

    repair()
    try:
        import transformers
    except ImportError as error:
        raise SparsightError(
            f"transformers is needed for this and cannot be imported ({error}): "
            "pip install 'sparsight[hf]'"
        ) from None
    return transformers


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
    own = {"pretrained_cfg_overlay": {"file": str(checkpoint)}} if checkpoint else {}
    build = partial(timm.create_model, name, pretrained=pretrained or checkpoint is not None, **own)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                model = build(img_size=resolution, dynamic_img_size=True)
                if is_instance(model, "timm.models.swin_transformer.SwinTransformer"):
                    # For one size, Swin makes its masks once; for any, at every call.
                    model = build(img_size=resolution)
                return model
            except TypeError:  # SAM 2's encoder takes any size and has no argument for it
                return build()
    except Exception as error:  # timm, the hub and safetensors each have their own kinds
        raise SparsightError(f"cannot load {name}: {' '.join(str(error).split())}") from error


def _loaded(model: "nn.Module", source: str, random_weights: bool) -> LoadedModel:
    from sparsight.images import IMAGENET_MEAN, IMAGENET_STD

    cfg = getattr(model, "pretrained_cfg", None) or {}
    mean, std = cfg.get("mean", IMAGENET_MEAN), cfg.get("std", IMAGENET_STD)
    return LoadedModel(model.eval(), source, tuple(mean), tuple(std), random_weights)
