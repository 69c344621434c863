"""transformers `Dinov2Model`, with registers or without: LayerScale, drop path, MLP or SwiGLU."""

from typing import Any

from sparsight.families.base import Family, is_instance
from sparsight.families.hf import MODELS, NO_DROPOUT, PLACES, project, requirements
from sparsight.families.parts import Parts

DINOV2 = MODELS + "dinov2.modeling_dinov2.Dinov2"
REGISTERS = MODELS + "dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegisters"
BACKBONES = (DINOV2 + "Backbone", REGISTERS + "Backbone")
KINDS = (DINOV2 + "Model", REGISTERS + "Model", *BACKBONES)


def _blocks(m):
    return m.encoder.layer


def _features(m, images):
    """Final tokens; a backbone gives maps of some layers, made from the same hidden states."""
    if is_instance(m, *BACKBONES):
        return m.layernorm(m(images, output_hidden_states=True).hidden_states[-1])
    return m(images).last_hidden_state


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
}

FAMILY = Family(
    name="hf_dinov2",
    examples="DINOv2 with and without registers, alone, in classifiers, or as the backbone of detectors "
    "and depth models (`Dinov2Backbone`)",
    kinds=KINDS,
    refused=NO_DROPOUT,
    requirements=requirements(
        KINDS,
        _blocks,
        (DINOV2 + "Layer", REGISTERS + "Layer"),
        "attention",
        "scaling",
        "attention_dropout",
    ),
    blocks=_blocks,
    prefix_tokens=lambda m: 1 + getattr(m.config, "num_register_tokens", 0),
    dim=lambda block: block.attention.q_proj.in_features,
    heads=lambda block: block.attention.num_attention_heads,
    features=_features,
    parts=Parts(qkv=project, **PARTS),
    **PLACES,
)
