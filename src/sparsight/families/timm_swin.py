"""timm `SwinTransformer` (v1): every block attends within windows, every second one shifted."""

from sparsight.families.base import Family, runs_as
from sparsight.families.parts import Parts
from sparsight.families.timm_vit import final_tokens
from sparsight.families.windows import Nested, Windows, pairs

SWIN = "timm.models.swin_transformer."


def blocks_of(m):
    """All blocks, stage after stage."""
    return Nested([stage.blocks for stage in m.layers])


def _mask(block, grid, tokens):
    if not block.dynamic_mask:
        return block.attn_mask
    return block.get_attn_mask(tokens.new_empty(1, *grid, 1))


def requirements(block: str):
    """What must hold of a Swin whose blocks are of the class `block`."""
    return (
        (
            f"Swin's own blocks (timm's {block.rpartition('.')[2]})",
            lambda m: all(runs_as(b, block) for b in blocks_of(m)),
        ),
        (
            "an even number of blocks in every stage, regular and shifted in turn",
            lambda m: all(
                len(stage.blocks) % 2 == 0
                and [any(b.target_shift_size) for b in stage.blocks]
                == [False, True] * (len(stage.blocks) // 2)
                for stage in m.layers
            ),
        ),
    )


FAMILY = Family(
    name="timm_swin",
    library="timm",
    verified_with="1.0.31",
    examples="Swin (v1) and S3",
    kinds=(SWIN + "SwinTransformer",),
    sparse="windows, in any stage (SparseViT)",
    refused="stages with an odd number of blocks",
    requirements=requirements(SWIN + "SwinTransformerBlock"),
    blocks=blocks_of,
    dim=lambda block: block.dim,
    prefix_tokens=lambda m: 0,
    patch_px=lambda m: tuple(m.patch_embed.patch_size),
    heads=lambda block: block.attn.num_heads,
    parts=Parts(
        norm=lambda block, x: block.norm1(x),
        attention=lambda block: block.attn,
        residual=lambda block, x, y: x + block.drop_path1(y),
        mlp=lambda block, x: x + block.drop_path2(block.mlp(block.norm2(x))),
    ),
    features=lambda m, images: final_tokens(m, images, SWIN + "SwinTransformer", blocks_of(m)).flatten(
        1, 2
    ),
    is_global=lambda block: False,
    windows=Windows(
        stages=lambda m: pairs(len(stage.blocks) for stage in m.layers),
        size=lambda block: block.window_size,
        shift=lambda block, grid: block.shift_size,
        rolls_first=True,
        attend=lambda block, h, mask: block.attn(h, mask=mask),
        mask=_mask,
    ),
)
