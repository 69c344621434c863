"""Encoders that are known and refused, each with its reason and the way out."""

from fnmatch import fnmatchcase

from sparsight.families.base import classes_of
from sparsight.families.parts import Host

HF = "transformers.models."
PAIR_BIAS = (
    "its attention adds a bias to every pair of query and key (relative positions), for which the two "
    "unmasked attention calls of SVE have no place"
)
SWIN_CR = (
    "it is a Swin v2 CR, whose blocks have no adapter; Swin v1 and the usual Swin v2 (swinv2_*) have"
)
TIMM = "it is of another repository; use timm:{}, where --checkpoint loads its weights"
TWIN = "it is of another repository; use timm:{}, which has weights of its own: these have other names"
DINOV2 = TIMM.format("vit_base_patch14_dinov2 (or small, large, reg4), or transformers' Dinov2Model")
DINOV3 = TIMM.format("vit_base_patch16_dinov3 (or small, large), or transformers' DINOv3ViTModel")
CLIP = TIMM.format("vit_base_patch16_clip_224 (or its size), or transformers' CLIPVisionModel")
BY_HAND = "it was built to attend by hand: load it with attn_implementation='sdpa'"
ASKED = (None, PAIR_BIAS, BY_HAND)  # a dry run tells whether it is so
SAM = (
    "it is of another repository; use transformers' SamModel (facebook/sam-vit-huge and others), or "
    "timm:samvit_huge_patch16 with its pretrained weights"
)
SAM2 = (
    "it is of another repository; use transformers' Sam2Model (facebook/sam2.1-hiera-large and others), "
    "or timm:sam2_hiera_large with its pretrained weights"
)
SWIN_V2 = TIMM.format("swinv2_base_window8_256 (or its size)")
SWIN = TIMM.format("swin_base_patch4_window7_224 (or its size)")
EVA = TIMM.format("eva02_base_patch14_448 (or its size)")
PLAIN = TIMM.format("vit_base_patch16_224 (or its size)")
ATTENTION = (
    "its attention is nn.MultiheadAttention, which has no adapter; use the same encoder from timm or "
    "transformers"
)
# Patterns of "package.module.Class", the first that fits counts.  Repositories are often copied into
# others, so that what their modules are called is the more telling part.
REFUSED: tuple[tuple[str, str], ...] = (
    ("timm.models.vision_transformer_relpos.*", PAIR_BIAS),
    ("timm.models.beit.Beit", PAIR_BIAS),
    ("timm.models.swin_transformer_v2_cr*", SWIN_CR),
    ("timm.models.*", ""),
    (HF + "sam.*", BY_HAND),
    (HF + "sam_hq.*", BY_HAND),
    (HF + "beit.*", PAIR_BIAS),
    (HF + "data2vec.modeling_data2vec_vision.*", PAIR_BIAS),
    (HF + "*.Swin*Backbone", "it returns maps of several stages and no tokens; a SwinModel can"),
    (
        HF + "vit_mae.*",
        "its encoder drops patches at random, for pretraining; the same weights load as a ViTModel",
    ),
    ("transformers.*", ""),
    ("dinov2.*", DINOV2),
    ("*dinov2*.DinoVisionTransformer", DINOV2),
    ("dinov3.*", DINOV3),
    ("*dinov3*.DinoVisionTransformer", DINOV3),
    ("*.DinoVisionTransformer", DINOV2),
    ("clip.model.*", CLIP),
    ("*open_clip.*", CLIP),
    ("sam2.*", SAM2),
    ("segment_anything.*", SAM),
    ("mobile_sam.*", SAM),
    ("*models_mae.*", TIMM.format("vit_base_patch16_224.mae (or its size)")),
    ("torchvision.models.vision_transformer.*", TWIN.format("vit_base_patch16_224 (or its size)")),
    (
        "torchvision.models.swin_transformer.SwinTransformer*",
        TWIN.format("swin_base_patch4_window7_224 (or its size)"),
    ),
    ("torchvision.*", ""),
    ("torch.nn.modules.transformer.*", ATTENTION),
    ("mm*.SwinTransformer*", TWIN.format("swin_base_patch4_window7_224 (or its size)")),
    ("mm*.*VisionTransformer*", TWIN.format("vit_base_patch16_224 (or its size)")),
    ("*swin*v2*.SwinTransformerV2", SWIN_V2),
    ("*swin*.SwinTransformer", SWIN),
    ("*eva*.*VisionTransformer", EVA),
    ("*beit*.*VisionTransformer*", PAIR_BIAS),
    (
        "vit_pytorch.*",
        "it is of another repository, and timm and transformers have no model with its names",
    ),
    ("*vision_transformer.VisionTransformer", PLAIN),
)


def reason_against(model: Host) -> str | None:
    """Why `model` is refused, if that is known of its class or of one that it is derived from."""
    for name in classes_of(model):
        for pattern, reason in REFUSED:
            if fnmatchcase(name, pattern):
                if reason:
                    return reason
                break
    return None
