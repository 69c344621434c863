"""timm `HieraDet`: the image encoder of SAM 2, whose blocks attend within windows but for a few."""

import math

from sparsight.families.base import Family, runs_as
from sparsight.families.parts import Parts
from sparsight.families.timm_vit import HALVES, final_tokens
from sparsight.families.windows import Windows, runs

HIERA = "timm.models.hieradet_sam2."
BLOCKS = "the blocks with global attention (three in each SAM 2), and windows in the others (SparseViT)"
NOT_POOLED = "blocks that pool stay as they are"


def _qkv(attn, h):
    b, n, _ = h.shape
    return attn.qkv(h).view(b, n, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind()


def _is_global(block) -> bool:
    return not block.is_windowed and block.q_stride is None and block.dim == block.dim_out


def _windowed(block) -> tuple[int, int, int] | None:
    """What is the same of blocks that see the same windows; None of one that has none, or pools."""
    if not block.is_windowed or block.q_stride is not None or block.dim != block.dim_out:
        return None
    height, width = block.window_size
    return height, width, block.dim


def _patch_px(model) -> tuple[int, int]:
    """The step of the coarsest stage, and of the position embedding that is laid out in tiles."""
    patch = model.patch_embed.proj.stride
    pooled = [side ** len(model.q_pool_blocks) for side in model.q_stride]
    height, width = (
        math.lcm(side * pools, side * model.window_spec[0])
        for side, pools in zip(patch, pooled, strict=True)
    )
    return height, width


FAMILY = Family(
    name="timm_sam2",
    library="timm",
    verified_with="1.0.31",
    examples="SAM 2 and SAM 2.1 image encoders (sam2_hiera_*)",
    kinds=(HIERA + "HieraDet",),
    sparse=BLOCKS,
    refused=NOT_POOLED,
    requirements=(
        (
            "multi-scale blocks (timm's MultiScaleBlock)",
            lambda m: all(runs_as(b, HIERA + "MultiScaleBlock") for b in m.blocks),
        ),
        (
            "at least one block that does not pool",
            lambda m: any(_is_global(b) or _windowed(b) for b in m.blocks),
        ),
    ),
    blocks=lambda m: m.blocks,
    dim=lambda block: block.dim_out,
    prefix_tokens=lambda m: 0,
    patch_px=_patch_px,
    heads=lambda block: block.attn.num_heads,
    parts=Parts(qkv=_qkv, merge=lambda attn, out, h: attn.proj(out.flatten(2)), **HALVES),
    features=lambda m, images: final_tokens(m, images, HIERA + "HieraDet", m.blocks).flatten(1, 2),
    is_global=_is_global,
    windows=Windows(
        stages=lambda m: runs(m.blocks, _windowed),
        size=lambda block: block.window_size,
        attend=lambda block, h, mask: block.attn(h.unflatten(1, block.window_size)).flatten(1, 2),
    ),
)
