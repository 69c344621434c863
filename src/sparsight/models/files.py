"""The tensors of a checkpoint: safetensors, whole or in shards, or a file of torch.save read safely.

A file of torch.save is a pickle.  It is read by PyTorch's restricted reader (`weights_only=True`), which
makes tensors and plain containers and calls nothing else.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.errors import SparsightError

if TYPE_CHECKING:
    from torch import Tensor

# What torch.compile, FSDP and gradient checkpointing put into names, anywhere.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
INDEX = ".safetensors.index.json"
TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar")  # as people call what torch.save wrote
OTHERS = {
    ".gguf": "GGUF", ".onnx": "ONNX", ".engine": "TensorRT", ".plan": "TensorRT", ".tflite": "TFLite",
    ".pb": "TensorFlow", ".h5": "Keras", ".keras": "Keras", ".msgpack": "Flax", ".npz": "NumPy",
    ".mlmodel": "Core ML", ".mlpackage": "Core ML", ".pt2": "torch.export",
    ".torchscript": "TorchScript",
}  # fmt: skip


def tensors_of(path: Path) -> "dict[str, Tensor]":
    """Every tensor of a checkpoint by its name, those of nested dictionaries with dots between.

    Raises SparsightError if there is no such file, or it cannot be read safely.
    """
    if path.is_dir():
        raise SparsightError(f"{path} is a folder: name the file of weights in it, or give it as MODEL")
    if not path.is_file():
        raise SparsightError(f"there is no file {path}")
    read = (
        _sharded if path.name.endswith(INDEX)
        else _safetensors if path.suffix == ".safetensors"
        else _of_torch_save if path.suffix in TORCH
        else None
    )  # fmt: skip
    if read is not None:
        return {_unwrapped(name): tensor for name, tensor in read(path).items()}
    known = f"it is of {OTHERS[path.suffix]}" if path.suffix in OTHERS else "of a kind that is not read"
    raise SparsightError(f"{path} holds no weights for PyTorch, {known}: give .safetensors or .pth")


def _unwrapped(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def brief(error: object, most: int = 150) -> str:
    """The message of another library in one line, cut where it grows long."""
    text = " ".join(str(error).split())
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " ..."


def _safetensors(path: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise SparsightError(f"cannot read {path}: {brief(error)}") from None


def _sharded(path: Path) -> "dict[str, Tensor]":
    """All shards that an index names, which lie beside it."""
    try:
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        foreign = [name for name in shards if Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SparsightError(f"{path} is no index of safetensors: {brief(error)}") from None
    if foreign:
        raise SparsightError(f"{path} names {foreign[0]!r}, which is not a file beside it")
    found: dict[str, Tensor] = {}
    for name in shards:
        if not (path.parent / name).is_file():
            raise SparsightError(f"{path} names {name}, which is not there: {len(shards)} shards belong")
        found |= _safetensors(path.parent / name)
    return found


def _of_torch_save(path: Path) -> "dict[str, Tensor]":
    import torch

    try:
        # Training scripts keep their arguments beside the weights; a Namespace is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file has many kinds of errors
        if type(error).__name__ != "UnpicklingError" or "GLOBAL " not in str(error):
            raise SparsightError(f"cannot read {path}: {brief(error)}") from None
        needs = str(error).partition("GLOBAL ")[2].split()[0]
        raise SparsightError(
            f"{path} holds more than tensors ({brief(needs, 60)}), and no code of a checkpoint is run: "
            "where you trust it, save its state_dict() with safetensors.torch.save_file"
        ) from None
    return dict(_flat(found, ""))


def _flat(value: Any, name: str) -> "list[tuple[str, Tensor]]":
    """The tensors in nested dictionaries."""
    from torch import Tensor

    if isinstance(value, Tensor):
        return [(name, value)]
    if not isinstance(value, dict):
        return []
    return [pair for k, v in value.items() for pair in _flat(v, f"{name}.{k}" if name else str(k))]
