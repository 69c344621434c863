"""transformers `Swinv2Model`: Swin's windows; it normalises after its parts and compares by cosines."""

from dataclasses import replace

from sparsight.families import hf_swin
from sparsight.families.base import runs_as
from sparsight.families.hf import MODELS, own_forward
from sparsight.families.parts import Parts

SWIN_V2 = MODELS + "swinv2.modeling_swinv2."

FAMILY = replace(
    hf_swin.FAMILY,
    name="hf_swin_v2",
    examples="Swin v2, and the backbone in its classifiers",
    kinds=(SWIN_V2 + "Swinv2Model",),
    refused="stages with an odd number of blocks; `Swinv2Backbone`, which returns maps of all stages",
    requirements=(
        own_forward(SWIN_V2 + "Swinv2Model"),
        (
            "its own Swinv2Layer and Swinv2Attention as every block",
            lambda m: all(
                runs_as(b, SWIN_V2 + "Swinv2Layer") and runs_as(b.attention, SWIN_V2 + "Swinv2Attention")
                for b in hf_swin.blocks_of(m)
            ),
        ),
        hf_swin.EVEN,
    ),
    dim=lambda block: block.attention.self.all_head_size,
    heads=lambda block: block.attention.self.num_attention_heads,
    parts=Parts(
        norm=lambda block, x: x,
        attention=lambda block: block.attention,
        residual=lambda block, x, y: x + block.drop_path(block.layernorm_before(y)),
        mlp=lambda block, x: (
            x + block.drop_path(block.layernorm_after(block.output(block.intermediate(x))))
        ),
    ),
    windows=replace(
        hf_swin.WINDOWS,
        shift=lambda block, grid: (block.shift_size, block.shift_size),
        result=lambda block, tokens, x: (tokens,),
    ),
)
