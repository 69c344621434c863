"""Encoders that are known and refused, each with its reason."""

from sparsight.families.base import class_name
from sparsight.families.parts import Host

HF = "transformers.models."
PAIR_BIAS = (
    "its attention adds a bias to every pair of query and key (decomposed relative positions), for "
    "which the two unmasked attention calls of SVE have no place"
)
MAPS = (
    "its blocks take maps with channels first, some with convolutions of their own, and its attention "
    "may add a bias to every pair of query and key; there is no adapter for them"
)
COSINE = (
    "it is a Swin v2, whose blocks normalise after their attention and compare by cosines; a Swin v1 can"
)
REFUSED: dict[str, str] = {
    "timm.models.vision_transformer_sam.VisionTransformerSAM": PAIR_BIAS,
    HF + "sam.modeling_sam.SamModel": PAIR_BIAS,
    HF + "sam.modeling_sam.SamVisionModel": PAIR_BIAS,
    HF + "sam.modeling_sam.SamVisionEncoder": PAIR_BIAS,
    HF + "sam_hq.modeling_sam_hq.SamHQModel": PAIR_BIAS,
    HF + "sam_hq.modeling_sam_hq.SamHQVisionModel": PAIR_BIAS,
    HF + "sam_hq.modeling_sam_hq.SamHQVisionEncoder": PAIR_BIAS,
    HF + "vitdet.modeling_vitdet.VitDetModel": MAPS,
    HF + "vitdet.modeling_vitdet.VitDetBackbone": MAPS,
    "timm.models.swin_transformer_v2.SwinTransformerV2": COSINE,
    "timm.models.swin_transformer_v2_cr.SwinTransformerV2Cr": COSINE,
    HF + "swinv2.modeling_swinv2.Swinv2Model": COSINE,
    HF + "swinv2.modeling_swinv2.Swinv2Backbone": COSINE,
}


def reason_against(model: Host) -> str | None:
    """Why `model` is refused, if that is known."""
    return REFUSED.get(class_name(model))
