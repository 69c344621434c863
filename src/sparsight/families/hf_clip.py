"""transformers `CLIPVisionModel`, alone or as the vision tower of a larger model."""

from sparsight.families.base import Family
from sparsight.families.hf import MODELS, NO_DROPOUT, PLACES, project, requirements
from sparsight.families.parts import Parts

CLIP = MODELS + "clip.modeling_clip.CLIP"


def blocks(m):
    """Where CLIP's and SigLIP's towers keep their layers."""
    return m.encoder.layers


def _merge(attn, out, h):
    return attn.out_proj(out.flatten(2))


# SigLIP's blocks are the same.
PARTS = Parts(
    norm=lambda block, x: block.layer_norm1(x),
    attention=lambda block: block.self_attn,
    qkv=project,
    merge=_merge,
    residual=lambda block, x, y: x + y,
    mlp=lambda block, x: x + block.mlp(block.layer_norm2(x)),
)

FAMILY = Family(
    name="hf_clip",
    examples="CLIP's vision tower, alone, in `CLIPModel`, or in a vision-language model such as LLaVA",
    kinds=(CLIP + "VisionModel",),
    refused=f"{NO_DROPOUT}; CLIP's text tower, whose attention is causal",
    requirements=requirements(
        (CLIP + "VisionModel",), blocks, (CLIP + "EncoderLayer",), "self_attn", "scale", "dropout"
    ),
    blocks=blocks,
    prefix_tokens=lambda m: 1,
    dim=lambda block: block.self_attn.q_proj.in_features,
    heads=lambda block: block.self_attn.num_heads,
    features=lambda m, images: m(images, interpolate_pos_encoding=True).last_hidden_state,
    parts=PARTS,
    **PLACES,
)
