"""The tensors of a checkpoint: safetensors, whole or in shards.  Pickles are not read."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sparsight.errors import SparsightError, brief

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
    """Every tensor of a checkpoint by its name.

    Raises SparsightError if there is no such file, or it cannot be read safely.
    """
    if path.is_dir():
        raise SparsightError(f"{path} is a folder: name the file of weights in it, or give it as MODEL")
    if not path.is_file():
        raise SparsightError(f"there is no file {path}")
    read = (
        _sharded if path.name.endswith(INDEX)
        else _safetensors if path.suffix == ".safetensors"
        else None
    )  # fmt: skip
    if read is not None:
        return {_unwrapped(name): tensor for name, tensor in read(path).items()}
    if path.suffix in TORCH:
        raise SparsightError(
            f"{brief(path.name, 60)} is a pickle, and pickles are not read: where you trust it, save "
            "the dict of tensors that torch.load(FILE, weights_only=True) gives with "
            "safetensors.torch.save_file"
        )
    known = f"it is of {OTHERS[path.suffix]}" if path.suffix in OTHERS else "of a kind that is not read"
    raise SparsightError(f"{path} holds no weights for PyTorch, {known}: give .safetensors")


def _unwrapped(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SparsightError(f"{path} is no index of safetensors: {brief(error)}") from None
    if foreign:
        raise SparsightError(f"{path} names {foreign[0]!r}, which is not a file beside it")
    found: dict[str, Tensor] = {}
    for name in shards:
        if not (path.parent / name).is_file():
            raise SparsightError(f"{path} names {name}, which is not there: {len(shards)} shards belong")
        found |= _safetensors(path.parent / name)
    return found
