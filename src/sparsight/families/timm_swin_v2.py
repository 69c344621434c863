"""timm `SwinTransformerV2`: Swin's windows; it normalises after its parts and compares by cosines."""

from dataclasses import replace

from sparsight.families import timm_swin
from sparsight.families.parts import Parts
from sparsight.families.timm_vit import final_tokens

SWIN_V2 = "timm.models.swin_transformer_v2."

FAMILY = replace(
    timm_swin.FAMILY,
    name="timm_swin_v2",
    examples="Swin v2 (swinv2_*)",
    kinds=(SWIN_V2 + "SwinTransformerV2",),
    refused="Swin v2 CR (swinv2_cr_*); stages with an odd number of blocks",
    requirements=timm_swin.requirements(SWIN_V2 + "SwinTransformerV2Block"),
    parts=Parts(
        norm=lambda block, x: x,
        attention=lambda block: block.attn,
        residual=lambda block, x, y: x + block.drop_path1(block.norm1(y)),
        mlp=lambda block, x: x + block.drop_path2(block.norm2(block.mlp(x))),
    ),
    features=lambda m, images: final_tokens(
        m, images, SWIN_V2 + "SwinTransformerV2", timm_swin.blocks_of(m)
    ).flatten(1, 2),
)
