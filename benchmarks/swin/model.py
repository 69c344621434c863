"""A small timm Swin with a segmentation head that reads all four stages, for SparseViT's benchmark.

`benchmarks/swin/train.py` is the command that trained it, on the scenes of the embedded encoder.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from sparsight._torchvision import repair
from sparsight.demo.encoder import CLASSES, MEAN, STD

WEIGHTS = Path(__file__).parent / "weights"
DIM, DEPTHS, HEADS, WINDOW, PATCH_PX = 32, (2, 2, 6, 2), (1, 2, 4, 8), 8, 4
MIXED = 32  # channels in which the head adds the stages up
CELLS = 2  # the head labels CELLS x CELLS cells in each patch: one per 2 x 2 pixels


class Head(nn.Module):
    """A norm and a linear map per stage, enlarged to stride 4 and added, then one map to the classes."""

    def __init__(self) -> None:
        super().__init__()
        dims = [DIM * 2**stage for stage in range(len(DEPTHS))]
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.maps = nn.ModuleList(nn.Linear(dim, MIXED) for dim in dims)
        self.classes = nn.Linear(MIXED, CLASSES * CELLS * CELLS)

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Class logits per cell, (batch, classes, height / 2, width / 2), from `stages_of`."""
        mixed = None
        for x, norm, linear in zip(stages, self.norms, self.maps, strict=True):
            part = linear(norm(x)).permute(0, 3, 1, 2)
            if mixed is None:
                mixed = part
            else:
                mixed = mixed + F.interpolate(part, mixed.shape[2:], mode="bilinear")
        logits = self.classes(F.gelu(mixed.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return F.pixel_shuffle(logits, CELLS)


def build(size_px: int = 1024, seed: int = 0) -> Any:
    """An untrained `SwinTransformer` for square pictures, with its head as `segmentation`.

    Its attention is fused, which timm leaves off by default: a speed-up over the unfused one would
    flatter.
    """
    repair()
    from timm.models.swin_transformer import SwinTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = SwinTransformer(
            img_size=size_px, patch_size=PATCH_PX, embed_dim=DIM, depths=DEPTHS, num_heads=HEADS,
            window_size=WINDOW, num_classes=0, drop_path_rate=0.0,
        )  # fmt: skip
        model.segmentation = Head()
    for stage in model.layers:
        for block in stage.blocks:
            block.attn.fused_attn = True
    model.pretrained_cfg = {"mean": MEAN, "std": STD, "input_size": (3, size_px, size_px)}
    return model


def stages_of(model: Any, pictures: Tensor) -> list[Tensor]:
    """The outputs of the four stages, each (batch, height, width, channels)."""
    x, found = model.patch_embed(pictures), []
    for stage in model.layers:
        x = stage(x)
        found.append(x)
    return found


def load(size_px: int = 1024, path: Path = WEIGHTS / "swin.safetensors") -> Any:
    """The trained model in evaluation mode, in float32 (its weights are kept in float16)."""
    model = build(size_px)
    model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return model.eval()
