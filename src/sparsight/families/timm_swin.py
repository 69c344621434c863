"""timm `SwinTransformer` (v1): every block attends within windows, every second one shifted."""

from sparsight.families.base import Family, runs_as
from sparsight.families.parts import Parts
from sparsight.families.timm_vit import final_tokens
from sparsight.families.windows import Nested, Windows

SWIN = "timm.models.swin_transformer."


def _blocks(m):
    return Nested([stage.blocks for stage in m.layers])


def _qkv(attn, h):
    b, n, _ = h.shape
    return attn.qkv(h).view(b, n, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind()


def _mask(block, grid, tokens):
    if not block.dynamic_mask:
        return block.attn_mask
    return block.get_attn_mask(tokens.new_empty(1, *grid, 1))


FAMILY = Family(
    name="timm_swin",
    library="timm",
    verified_with="1.0.31",
    examples="Swin (v1) and S3",
    kinds=(SWIN + "SwinTransformer",),
    sparse="windows, in any stage (SparseViT)",
    refused="Swin v2, which normalises after its attention and compares by cosines; stages with an odd "
    "number of blocks; attention dropout",
    requirements=(
        (
            "Swin's own blocks (timm's SwinTransformerBlock)",
            lambda m: all(runs_as(b, SWIN + "SwinTransformerBlock") for b in _blocks(m)),
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
        (
            "attention scaled by 1/sqrt(head width) and without dropout",
            lambda m: all(
                b.attn.scale == (b.attn.proj.in_features // b.attn.num_heads) ** -0.5
                and b.attn.attn_drop.p == 0
                for b in _blocks(m)
            ),
        ),
    ),
    blocks=_blocks,
    dim=lambda block: block.dim,
    prefix_tokens=lambda m: 0,
    patch_px=lambda m: tuple(m.patch_embed.patch_size),
    heads=lambda block: block.attn.num_heads,
    parts=Parts(
        norm=lambda block, x: block.norm1(x),
        attention=lambda block: block.attn,
        qkv=_qkv,
        merge=lambda attn, out, h: attn.proj_drop(attn.proj(out.flatten(2))),
        residual=lambda block, x, y: x + block.drop_path1(y),
        mlp=lambda block, x: x + block.drop_path2(block.mlp(block.norm2(x))),
    ),
    features=lambda m, images: final_tokens(m, images, SWIN + "SwinTransformer", _blocks(m)).flatten(
        1, 2
    ),
    is_global=lambda block: False,
    windows=Windows(
        stages=lambda m: tuple(len(stage.blocks) for stage in m.layers),
        size=lambda block: block.window_size,
        shift=lambda block, grid: block.shift_size,
        rolls_first=True,
        bias=lambda block: block.attn._get_rel_pos_bias()[0],
        mask=_mask,
        grid=lambda x, host: (x.shape[1], x.shape[2]),
        result=lambda tokens, x: tokens.view(x.shape),
    ),
)
