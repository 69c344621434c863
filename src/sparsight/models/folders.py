"""What a folder given as MODEL holds, and what else may be given in its place."""

import json
from pathlib import Path
from typing import Any

from sparsight.errors import SparsightError, brief
from sparsight.models.files import INDEX, OTHERS, TORCH

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
# Files that tell what a folder without a config.json is, and what to do.
KNOWN = {
    "plan.json": "is a run of sparsight: give it to measure or evaluate, or give here the model it was "
    "made for",
    "finetune.json": "holds fine-tuned weights: give its model.safetensors with --checkpoint, and the "
    "model it came from",
    "adapter_config.json": "holds an adapter (peft): merge it into its model with merge_and_unload, and "
    "save that with save_pretrained",
    "open_clip_config.json": "is open_clip's, whose own blocks have no adapter: the same weights are in "
    "timm (timm:vit_..._clip_...), take its file with --checkpoint if it is of safetensors",
    "model_index.json": "is a pipeline of diffusers: give the folder of one model in it",
}
HOW = "write it with timm's save_for_hf(..., safe_serialization=True) or transformers' save_pretrained"


def config_of(folder: Path) -> dict[str, Any]:
    """The config.json of a folder that has safetensors too; SparsightError that says what it lacks."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        for name, what in KNOWN.items():
            if (folder / name).exists():
                raise SparsightError(f"{folder} {what}")
        raise SparsightError(f"{folder} has no {CONFIG_FILE}: {HOW}")
    if not any((folder / name).is_file() for name in (WEIGHTS_FILE, "model" + INDEX)):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in TORCH)
        if pickles:
            raise SparsightError(
                f"{folder} has only pickled weights ({pickles[0]}), which are not read here: load it "
                f"where you trust it and save_pretrained it again, which writes {WEIGHTS_FILE}"
            )
        raise SparsightError(f"{folder} has no weights ({WEIGHTS_FILE}): {HOW}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SparsightError(f"cannot read {path}: {brief(error)}") from None
    if not isinstance(config, dict):
        raise SparsightError(f"{path} holds no object")
    return config


def refuse(source: str) -> SparsightError:
    """Why `source` is no MODEL: a file, a name without its library, or nothing at all."""
    path = Path(source)
    if path.is_file():
        if path.suffix in OTHERS:
            return SparsightError(
                f"{path} is a model of {OTHERS[path.suffix]}, whose blocks cannot be changed: give the "
                "PyTorch model it was made from"
            )
        if path.suffix == ".safetensors" or path.suffix in TORCH or path.name.endswith(INDEX):
            return SparsightError(
                f"{path} holds weights alone: name their model, as timm:NAME or a folder, and give the "
                "file with --checkpoint"
            )
        return SparsightError(f"{path} is a file: MODEL is demo, timm:NAME, hf:NAME, or a folder")
    given = brief(source, 100)
    if source.startswith("hub:"):
        return SparsightError(f"{given} names a run on the hub: give here the model it was made for")
    if _is_of_timm(source):
        return SparsightError(f"MODEL {given!r} is a name of timm: write timm:{given}")
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return SparsightError(
            f"there is no folder {given!r}; if it is a name on the hub: hf:{given} --pretrained, or "
            f"timm:hf-hub:{given} --pretrained"
        )
    return SparsightError(
        f"MODEL {given!r} is neither 'demo', nor 'timm:NAME', nor 'hf:NAME', nor a folder with "
        f"{CONFIG_FILE} and {WEIGHTS_FILE}"
    )


def _is_of_timm(name: str) -> bool:
    from sparsight.models.libraries import import_timm

    return bool(name) and import_timm().is_model(name)
