"""transformers `Dinov2Model`, with registers or without: LayerScale, drop path, MLP or SwiGLU."""

from typing import Any

from sparsight.families.base import Family
from sparsight.families.hf import MODELS, NO_DROPOUT, PLACES, project, requirements, with_no_map
from sparsight.families.parts import Parts

DINOV2 = MODELS + "dinov2.modeling_dinov2.Dinov2"
REGISTERS = MODELS + "dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegisters"


def _blocks(m):
    return m.encoder.layer


def merge(attn, out, h):
    """Output projection."""
    return attn.o_proj(out.flatten(2))


def residual(block, x, y):
    """First residual, with LayerScale and drop path."""
    return block.drop_path(block.layer_scale1(y)) + x


def mlp(block, x):
    """Second half of the block."""
    return block.drop_path(block.layer_scale2(block.mlp(block.norm2(x)))) + x


# DINOv3's blocks differ from these in their attention alone.
PARTS: dict[str, Any] = {
    "norm": lambda block, x: block.norm1(x),
    "attention": lambda block: block.attention,
    "merge": merge,
    "residual": residual,
    "mlp": mlp,
    "result": with_no_map,
}

FAMILY = Family(
    name="hf_dinov2",
    examples="DINOv2, DINOv2 with registers, and the backbone in their classifiers",
    kinds=(DINOV2 + "Model", REGISTERS + "Model"),
    refused=f"{NO_DROPOUT}; `Dinov2Backbone`, which returns maps of several layers and no tokens",
    requirements=requirements(
        _blocks, (DINOV2 + "Layer", REGISTERS + "Layer"), "attention", "scaling", "attention_dropout"
    ),
    blocks=_blocks,
    prefix_tokens=lambda m: 1 + getattr(m.config, "num_register_tokens", 0),
    dim=lambda block: block.attention.q_proj.in_features,
    heads=lambda block: block.attention.num_attention_heads,
    features=lambda m, images: m(images).last_hidden_state,
    wants_maps=lambda attn: attn.config.output_attentions,
    parts=Parts(qkv=project, **PARTS),
    **PLACES,
)
