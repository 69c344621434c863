"""Make `import torchvision` (and so `import timm`) work beside a CPU-only build of PyTorch.

The wheels of torchvision in the package registry are built for CUDA.  Beside a CPU build of PyTorch
their compiled operators cannot load, and torchvision then stops on the first one it describes
(`operator torchvision::nms does not exist`), although the transforms and utilities timm needs are
pure Python.  Declaring the missing operators' signatures is enough for the import to go through;
calling one of them still fails with PyTorch's own message.
"""

from importlib.util import find_spec
from pathlib import Path

SIGNATURES = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_library = None  # a torch.library.Library; what it defines lives as long as it does


def repair() -> bool:
    """Declare torchvision's operators if its own library cannot load; says whether that was needed."""
    global _library
    spec = find_spec("torchvision")
    if _library is not None or spec is None or not spec.submodule_search_locations:
        return False

    import torch

    for path in Path(spec.submodule_search_locations[0]).glob("_C*.so"):
        try:
            torch.ops.load_library(path)
            return False
        except OSError:
            continue
    _library = torch.library.Library("torchvision", "DEF")
    for signature in SIGNATURES:
        _library.define(signature)
    return True
