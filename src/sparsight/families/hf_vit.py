"""transformers `ViTModel` and `DeiTModel`: pre-norm blocks, one or two prefix tokens."""

from sparsight.families.base import Family
from sparsight.families.hf import MODELS, NO_DROPOUT, PLACES, project, requirements
from sparsight.families.hf_dinov2 import merge
from sparsight.families.parts import Parts

VIT, DEIT = MODELS + "vit.modeling_vit.ViT", MODELS + "deit.modeling_deit.DeiT"
KINDS = (VIT + "Model", DEIT + "Model")


def _blocks(m):
    return m.layers


FAMILY = Family(
    name="hf_vit",
    examples="ViT, DeiT (distilled or not), and the backbone in their classifiers",
    kinds=KINDS,
    refused=NO_DROPOUT,
    requirements=requirements(
        KINDS, _blocks, (VIT + "Layer", DEIT + "Layer"), "attention", "scaling", "attention_dropout"
    ),
    blocks=_blocks,
    # DeiT always has a distillation token beside cls.
    prefix_tokens=lambda m: 2 if hasattr(m.embeddings, "distillation_token") else 1,
    dim=lambda block: block.attention.q_proj.in_features,
    heads=lambda block: block.attention.num_attention_heads,
    features=lambda m, images: m(images, interpolate_pos_encoding=True).last_hidden_state,
    parts=Parts(
        norm=lambda block, x: block.layernorm_before(x),
        attention=lambda block: block.attention,
        qkv=project,
        merge=merge,
        residual=lambda block, x, y: block.dropout(y) + x,
        mlp=lambda block, x: block.dropout(block.mlp(block.layernorm_after(x))) + x,
    ),
    **PLACES,
)
