"""transformers `DINOv3ViTModel`: rotary position embedding on the patch tokens alone."""

from sparsight.families.base import Family, is_instance
from sparsight.families.hf import MODELS, NO_DROPOUT, PLACES, project, requirements
from sparsight.families.hf_dinov2 import PARTS
from sparsight.families.parts import Parts

DINOV3 = MODELS + "dinov3_vit.modeling_dinov3_vit.DINOv3ViT"
BACKBONE = DINOV3 + "Backbone"
KINDS = (DINOV3 + "Model", BACKBONE)


def _blocks(m):
    return m.model.layer


def _features(m, images):
    if is_instance(m, BACKBONE):
        return m.norm(m(images, output_hidden_states=True).hidden_states[-1])
    return m(images).last_hidden_state


def _qkv(attn, h, position_embeddings):
    from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb

    q, k, v = project(attn, h)
    cos, sin = position_embeddings
    return *apply_rotary_pos_emb(q, k, cos, sin), v


FAMILY = Family(
    name="hf_dinov3",
    examples="DINOv3 ViT (S to 7B), alone or as a backbone (`DINOv3ViTBackbone`)",
    kinds=KINDS,
    refused=f"{NO_DROPOUT}; DINOv3 ConvNeXt, which has no attention",
    requirements=requirements(KINDS, _blocks, (DINOV3 + "Layer",), "attention", "scaling", "dropout"),
    blocks=_blocks,
    prefix_tokens=lambda m: 1 + m.config.num_register_tokens,
    dim=lambda block: block.attention.q_proj.in_features,
    heads=lambda block: block.attention.num_heads,
    features=_features,
    parts=Parts(qkv=_qkv, **PARTS),
    per_token=("position_embeddings",),
    **PLACES,
)
