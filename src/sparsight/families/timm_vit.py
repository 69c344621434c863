"""timm `VisionTransformer` with pre-norm blocks: DINOv2, CLIP and SigLIP towers, DeiT, AugReg."""

from threading import get_ident
from typing import Any

from sparsight.families.base import Family, own_method, runs_as
from sparsight.families.parts import Parts

VIT = "timm.models.vision_transformer."


def _qkv(attn, h):
    b, n, _ = h.shape
    q, k, v = attn.qkv(h).view(b, n, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
    return attn.q_norm(q), attn.k_norm(k), v


def merge(attn, out, h):
    """Output projection of timm's attention modules, with their optional inner norm and gate."""
    y = attn.norm(out.flatten(2))
    if attn.gate is not None:
        y = y * attn.gate(h).sigmoid()
    return attn.proj_drop(attn.proj(y))


def patch_side(model):
    """Height and width of what becomes one token; a hybrid's convolutions have made maps before."""
    embed = model.patch_embed
    ratio = getattr(embed, "feat_ratio", None)
    return tuple(embed.patch_size if ratio is None else ratio(as_scalar=False))


def final_tokens(model, images, kind, blocks):
    """What timm's `forward_features` gives; of a derived class with its own, if those are all tokens.

    Such a one may pool them (MAE's classifier does); then what the last block gave it.
    """
    if own_method(model, "forward_features", kind):
        return model.forward_features(images)
    thread, given = get_ident(), []  # pictures may run in turns, each in a thread of its own

    def see(block, args, output):
        if get_ident() == thread:
            given.append(output)

    handle = blocks[len(blocks) - 1].register_forward_hook(see)
    try:
        found = model.forward_features(images)
    finally:
        handle.remove()
    return found if getattr(found, "shape", None) == given[-1].shape else given[-1]


# The halves of a pre-norm block with LayerScale, wherever timm has one.
HALVES: dict[str, Any] = {
    "norm": lambda block, x: block.norm1(x),
    "attention": lambda block: block.attn,
    "residual": lambda block, x, y: x + block.drop_path1(block.ls1(y)),
    "mlp": lambda block, x: x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))),
}

# Both of timm's families of plain ViTs keep things in the same places.
SCALED = (
    "attention scaled by 1/sqrt(head width) and without dropout",
    lambda m: all(b.attn.scale == b.attn.head_dim**-0.5 and b.attn.attn_drop.p == 0 for b in m.blocks),
)
PLACES: dict[str, Any] = {
    "library": "timm",
    "verified_with": "1.0.31",
    "blocks": lambda m: m.blocks,
    "dim": lambda block: block.attn.proj.out_features,
    "prefix_tokens": lambda m: m.num_prefix_tokens,
    "patch_px": patch_side,
    "heads": lambda block: block.attn.num_heads,
    "sparse": "global attention of any block",
}

FAMILY = Family(
    name="timm_vit",
    examples="DINOv2 (with and without registers), CLIP and SigLIP towers, DeiT, AugReg ViT",
    kinds=(VIT + "VisionTransformer",),
    refused="parallel or post-norm blocks, attention dropout; relative position bias, which has no form "
    "as two dense attention calls",
    requirements=(
        (
            "pre-norm blocks (timm's Block)",
            lambda m: all(runs_as(b, VIT + "Block") for b in m.blocks),
        ),
        (
            "plain global attention (timm's Attention) in every block",
            lambda m: all(runs_as(b.attn, "timm.layers.attention.Attention") for b in m.blocks),
        ),
        SCALED,
    ),
    parts=Parts(qkv=_qkv, merge=merge, **HALVES),
    features=lambda m, images: final_tokens(m, images, VIT + "VisionTransformer", m.blocks),
    **PLACES,
)
