"""The embedded encoder: a small timm ViT the project trained itself on its own scenes.

`benchmarks/encoder/train.py` is the command that trained it; `encoder.json` beside the weights says
on which machine, from which seed, and how it scores on scenes it was never trained on.
"""

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sparsight.demo.scenes import KINDS

if TYPE_CHECKING:
    from torch import Tensor

DIM, DEPTH, HEADS, PATCH_PX = 128, 12, 4, 16
IMAGE_SIZE = (1024, 1024)
CELLS = 8  # the segmentation head labels CELLS x CELLS cells in each patch: one per 2 x 2 pixels
CLASSES = len(KINDS) + 1
MEAN, STD = (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)


def build(seed: int = 0) -> Any:
    """An untrained `VisionTransformer` with its segmentation head as `segmentation`.

    The classification head is timm's own: one logit for each kind of object, "is there one".
    """
    import torch

    from sparsight._torchvision import repair

    repair()
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = VisionTransformer(
            img_size=IMAGE_SIZE, patch_size=PATCH_PX, embed_dim=DIM, depth=DEPTH, num_heads=HEADS,
            num_classes=len(KINDS), dynamic_img_size=True, init_values=None,
        )  # fmt: skip
        model.segmentation = torch.nn.Linear(DIM, CLASSES * CELLS * CELLS)
    model.pretrained_cfg = {"mean": MEAN, "std": STD, "input_size": (3, *IMAGE_SIZE)}
    return model


def label_map(model: Any, features: "Tensor", size: tuple[int, int]) -> "Tensor":
    """Class logits per cell, (batch, classes, height / 2, width / 2), from (batch, N, DIM) features."""
    grid = (size[0] // PATCH_PX, size[1] // PATCH_PX)
    logits = model.segmentation(features[:, model.num_prefix_tokens :])
    logits = logits.unflatten(2, (-1, CELLS, CELLS)).unflatten(1, grid)
    return logits.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def load() -> Any:
    """The trained encoder in evaluation mode, in float32 (its weights are kept in float16)."""
    from safetensors.torch import load_file

    model = build()
    weights = load_file(str(files("sparsight.demo") / "weights" / "encoder.safetensors"))
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    return model.eval()


def facts() -> dict[str, Any]:
    """How it was trained and how well it does, as its training command wrote it down."""
    return json.loads((files("sparsight.demo") / "weights" / "encoder.json").read_text())
