"""Small models that no family describes, one for each way to lay out attention."""

import timm
import torch
from conftest import shaken

from sparsight.families import encoder_in

VIT = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96,
    "patch_size": 8, "image_size": 64,
}  # fmt: skip
PACKED = {
    "hidden_size": 48, "depth": 2, "num_heads": 3, "intermediate_size": 96, "patch_size": 8,
    "out_hidden_size": 32, "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
}  # fmt: skip
# SAM 1: windows, and a bias of rows and columns in all layers
RELATIVE = VIT | {
    "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 96, "output_channels": 16,
}  # fmt: skip
# name -> (module of transformers.models, class, settings)
OF_TRANSFORMERS = {
    "aimv2": ("aimv2", "Aimv2VisionModel", VIT),
    "beit": ("beit", "BeitModel", VIT),
    "blip2": ("blip_2", "Blip2VisionModel", VIT),
    "gemma4": ("gemma4", "Gemma4VisionModel", VIT | {"head_dim": 16, "num_key_value_heads": 3}),
    "deepseek_ocr2": ("deepseek_ocr2", "DeepseekOcr2SamVisionEncoder", RELATIVE),
    "glm4v": ("glm4v", "Glm4vVisionModel", PACKED),
    "glm_ocr": ("glm_ocr", "GlmOcrVisionModel", PACKED),
    "hunyuan": ("hunyuan_vl", "HunYuanVLVisionTransformer", VIT),
    "idefics3": ("idefics3", "Idefics3VisionTransformer", VIT),
    "ijepa": ("ijepa", "IJepaModel", VIT),
    "internvl": ("internvl", "InternVLVisionModel", VIT),
    "kimi": ("kimi_k25", "Kimi_K25VisionModel", VIT),
    "kosmos2": ("kosmos2", "Kosmos2VisionModel", VIT),
    "metaclip2": ("metaclip_2", "MetaClip2VisionModel", VIT),
    "minicpm": ("minicpmv4_6", "MiniCPMV4_6VisionModel", VIT),
    "minimax": ("minimax_m3_vl", "MiniMaxM3VLVisionModel", VIT),
    "mlcd": ("mlcd", "MLCDVisionModel", VIT),
    "muse": ("muse_spark", "MuseSparkVisionModel", VIT),
    "owlv2": ("owlv2", "Owlv2VisionModel", VIT),
    "paddleocr": ("paddleocr_vl", "PaddleOCRVisionTransformer", VIT),
    "pixio": ("pixio", "PixioModel", VIT),
    "pixtral": ("pixtral", "PixtralVisionModel", VIT | {"head_dim": 16}),
    "qwen2_vl": ("qwen2_vl", "Qwen2VisionTransformerPretrainedModel", PACKED | {"embed_dim": 48}),
    "qwen2_5_vl": (
        "qwen2_5_vl",
        "Qwen2_5_VisionTransformerPretrainedModel",
        PACKED | {"window_size": 64, "fullatt_block_indexes": [1]},
    ),
    "qwen3_vl": ("qwen3_vl", "Qwen3VLVisionModel", PACKED),
    "qwen3_5": ("qwen3_5", "Qwen3_5VisionModel", PACKED),
    "radio": ("radio", "RadioModel", VIT),
    "sam": ("sam", "SamVisionModel", RELATIVE),
    "sam_hq": ("sam_hq", "SamHQVisionModel", RELATIVE),
    "sam3": (
        "sam3",
        "Sam3ViTModel",
        VIT | {"window_size": 4, "global_attn_indexes": [1], "pretrain_image_size": 64},
    ),
    "sapiens2": ("sapiens2", "Sapiens2Model", VIT | {"num_key_value_heads": 3}),
    "smolvlm": ("smolvlm", "SmolVLMVisionTransformer", VIT),
    "tipsv2": ("tipsv2", "Tipsv2VisionModel", VIT),
    "vitdet": (
        "vitdet",
        "VitDetModel",
        VIT
        | {
            "window_size": 4,
            "window_block_indices": [0],
            "use_relative_position_embeddings": True,
            "pretrain_image_size": 64,
            "mlp_ratio": 2,
        },
    ),
    "videollama3": ("video_llama_3", "VideoLlama3VisionModel", VIT),
}
SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64, "patch_size": 8}
OF_TIMM = {
    "parallel": ("vit_base_patch16_xp_224", SMALL),
    "post-norm": ("vit_base_patch16_rpn_224", SMALL),
    "eva-post-norm": ("vit_small_patch16_dinov3", SMALL | {"use_post_norm": True}),
    "naflex": (
        "naflexvit_base_patch16_siglip",
        {k: SMALL[k] for k in ("embed_dim", "depth", "num_heads")},
    ),
    "samvit": (
        "samvit_base_patch16",
        SMALL | {"window_size": 4, "global_attn_indexes": (1,), "neck_chans": 16},
    ),
    "differential": ("vit_tiny_patch16_224", SMALL | {"attn_layer": "diff"}),
    "attn-drop": ("vit_tiny_patch16_224", SMALL | {"attn_drop_rate": 0.1}),
}
SITES = (*OF_TRANSFORMERS, *OF_TIMM)


def make_site(name: str, **changes) -> torch.nn.Module:
    """One of them, with random weights."""
    torch.manual_seed(0)
    if name in OF_TIMM:
        kind, settings = OF_TIMM[name]
        return shaken(timm.create_model(kind, num_classes=0, **settings | changes))
    from importlib import import_module

    module, kind, settings = OF_TRANSFORMERS[name]
    host = getattr(import_module(f"transformers.models.{module}.modeling_{module}"), kind)
    known = set(vars(host.config_class())) | {"hidden_size", "depth"}
    made = shaken(
        host(host.config_class(**{k: v for k, v in (settings | changes).items() if k in known}))
    )
    return encoder_in(made, None)
