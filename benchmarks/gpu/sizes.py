"""The cases of the GPU plan, and small ones to try it on a CPU."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """A whole model at one size."""

    name: str
    model: str  # of timm
    size: int
    batch: int = 1
    changes: tuple[tuple[str, Any], ...] = ()  # of the model's settings, to make it small


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    modules: tuple[tuple[str, int, int, int, int], ...]  # name, width, heads, tokens, batch
    models: tuple[Case, ...]
    checked: tuple[int, int, int, int]  # batch, heads, tokens, width of a head
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32)
    compiler: str = "inductor"
    most: int = 21  # repeats


DINO, SAM = "vit_large_patch14_dinov2", "sam2_hiera_large"
FULL = Sizes(
    modules=(
        ("ViT-L", 1024, 16, 5477, 1), ("ViT-L", 1024, 16, 5477, 8), ("ViT-L", 1024, 16, 21317, 1),
        ("ViT-S", 384, 6, 5477, 1),
    ),
    models=(
        Case("dinov2-l-1036", DINO, 1036), Case("dinov2-l-2044", DINO, 2044),
        Case("sam2-l-2048", SAM, 2048), Case("dinov2-l-1036-batch8", DINO, 1036, 8),
        Case("sam2-l-1024", SAM, 1024),
    ),
    checked=(2, 4, 1000, 64),
)  # fmt: skip
SMALL = (("depth", 3), ("embed_dim", 48), ("num_heads", 3))
SMALL_SAM = (("stages", (1, 2, 3, 1)), ("global_att_blocks", (3, 4, 5)))
TINY = Sizes(
    modules=(("ViT-S", 48, 3, 197, 2),),
    models=(
        Case("dinov2-tiny", "vit_small_patch14_dinov2", 168, 1, SMALL),
        Case("sam2-tiny", "sam2_hiera_tiny", 128, 1, SMALL_SAM),
    ),
    checked=(2, 3, 101, 16),
    dtypes=(torch.float32,),
    compiler="eager",
    most=3,
)  # fmt: skip
