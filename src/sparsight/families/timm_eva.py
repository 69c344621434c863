"""timm `Eva`: DINOv3, EVA-02, Perception Encoder and other ViTs with rotary position embedding."""

import torch
from torch.nn import functional as F

from sparsight.families.base import Family, runs_as
from sparsight.families.parts import Parts
from sparsight.families.timm_vit import PLACES, SCALED, final_tokens, merge

EVA, ATTENTION = "timm.models.eva.", "timm.layers.attention.AttentionRope"


def _project(attn, h):
    """Queries, keys and values (b, heads, n, d) of the two attention classes, fused or not."""
    b, n, _ = h.shape
    if attn.qkv is None:
        parts = (attn.q_proj(h), attn.k_proj(h), attn.v_proj(h))
        return (p.view(b, n, -1, attn.head_dim).transpose(1, 2) for p in parts)
    if getattr(attn, "q_bias", None) is None:
        fused = attn.qkv(h)
    else:
        fused = F.linear(h, attn.qkv.weight, torch.cat([attn.q_bias, attn.k_bias, attn.v_bias]))
    return fused.view(b, n, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)


def _qkv(attn, h, rope=None):
    from timm.layers import apply_rot_embed_cat

    q, k, v = _project(attn, h)
    q, k = attn.q_norm(q), attn.k_norm(k)
    if rope is None:
        return q, k, v
    p, half = attn.num_prefix_tokens, attn.rotate_half

    def turn(x):
        patches = apply_rot_embed_cat(x[:, :, p:], rope, half=half)
        return torch.cat([x[:, :, :p], patches], dim=2).type_as(v)

    return turn(q), turn(k), v


def _scaled(gamma, y):
    return y if gamma is None else gamma * y


FAMILY = Family(
    name="timm_eva",
    examples="DINOv3, EVA-02, Perception Encoder, ViTs with RoPE",
    kinds=(EVA + "Eva",),
    refused="post-norm blocks, grouped-query attention",
    requirements=(
        (
            "pre-norm blocks (timm's EvaBlock)",
            lambda m: all(runs_as(b, EVA + "EvaBlock") for b in m.blocks),
        ),
        (
            "global attention (timm's EvaAttention or AttentionRope) in every block",
            lambda m: all(runs_as(b.attn, EVA + "EvaAttention", ATTENTION) for b in m.blocks),
        ),
        (
            "as many key heads as query heads (no grouped-query attention)",
            lambda m: all(getattr(b.attn, "num_kv_groups", 1) == 1 for b in m.blocks),
        ),
        SCALED,
    ),
    parts=Parts(
        norm=lambda block, x: block.norm1(x),
        attention=lambda block: block.attn,
        qkv=_qkv,
        merge=merge,
        residual=lambda block, x, y: x + block.drop_path1(_scaled(block.gamma_1, y)),
        mlp=lambda block, x: x + block.drop_path2(_scaled(block.gamma_2, block.mlp(block.norm2(x)))),
    ),
    features=lambda m, images: final_tokens(m, images, EVA + "Eva", m.blocks),
    per_token=("rope",),
    **PLACES,
)
