"""Small whole models around a vision encoder, and what they are asked: one for each kind of host."""

import torch
from conftest import HF_SMALL, shaken
from site_models import PACKED, RELATIVE, VIT

from sparsight.families.inputs import inputs_of

TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2,
}  # fmt: skip
STAGES = ["stage1", "stage2", "stage3", "stage4"]
NECK = {
    "neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8,
}  # fmt: skip
PICTURE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def internvl():
    """Its tower's 64 patches become 16 tokens of text."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    config = InternVLConfig(
        text_config=TEXT | {"model_type": "qwen2"}, vision_config=VIT, image_token_id=9
    )
    return InternVLForConditionalGeneration(config), {
        "input_ids": torch.tensor([[1] + [9] * 16 + [5]]), "pixel_values": PICTURE,
    }  # fmt: skip


def qwen3_vl():
    """Its tower's 256 patches of one packed picture become 64 tokens of text."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {"rope_type": "default", "mrope_section": [2, 3, 3]}
    config = Qwen3VLConfig(
        text_config=TEXT | {"head_dim": 16, "rope_scaling": rope}, vision_config=PACKED,
        image_token_id=9, video_token_id=10, vision_start_token_id=11, vision_end_token_id=12,
    )  # fmt: skip
    model = Qwen3VLForConditionalGeneration(config)
    words = torch.tensor([[1, 11] + [9] * 64 + [12, 5]])
    given = inputs_of(model.model.visual, PICTURE.repeat(1, 1, 2, 2), True)
    return model, {
        "input_ids": words, "pixel_values": given["hidden_states"], "image_grid_thw": given["grid_thw"],
        "mm_token_type_ids": (words == 9).long(),
    }  # fmt: skip


def depth_anything():
    """Around a DINOv2."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        **HF_SMALL | {"patch_size": 8}, out_features=STAGES, reshape_hidden_states=False
    )
    config = DepthAnythingConfig(
        backbone_config=backbone, patch_size=8, reassemble_hidden_size=48, head_hidden_size=8, **NECK
    )
    return DepthAnythingForDepthEstimation(config), {"pixel_values": PICTURE}


def sam():
    """SAM 1, asked by a point."""
    from transformers import SamConfig, SamModel

    prompts = {"hidden_size": 32, "image_size": 64, "patch_size": 8, "image_embedding_size": 8}
    heads = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    config = SamConfig(
        vision_config=RELATIVE | {"output_channels": 32, "num_pos_feats": 16},
        prompt_encoder_config=prompts, mask_decoder_config=heads,
    )  # fmt: skip
    return SamModel(config), {"pixel_values": PICTURE, "input_points": torch.full((1, 1, 1, 2), 20.0)}


def sam3():
    """The whole of SAM 3 for pictures, asked by words."""
    from transformers import Sam3Config, Sam3Model

    own = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    vit = VIT | {"model_type": "sam3_vit_model", "window_size": 4, "global_attn_indexes": [1]}
    config = Sam3Config(
        vision_config={
            "backbone_config": vit | {"pretrain_image_size": 64}, "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config=TEXT | {"model_type": "clip_text_model", "projection_dim": 24,
                            "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2},
        geometry_encoder_config=own, detr_encoder_config=own,
        detr_decoder_config=own | {"num_queries": 5},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )  # fmt: skip
    words = torch.tensor([[1, 5, 2]])
    asked = {"pixel_values": PICTURE, "input_ids": words, "attention_mask": torch.ones_like(words)}
    return Sam3Model(config), asked


def eomt(kind="Eomt"):
    """Queries join in the last of its blocks."""
    import transformers
    from transformers.models.eomt import modeling_eomt
    from transformers.models.eomt_dinov3 import modeling_eomt_dinov3

    for module in (modeling_eomt, modeling_eomt_dinov3):
        module.requires_backends = lambda *_: None  # scipy, for its loss alone
    config = getattr(transformers, f"{kind}Config")(
        **HF_SMALL | {"num_blocks": 1, "num_upscale_blocks": 1, "num_queries": 6, "patch_size": 8}
    )
    return getattr(transformers, f"{kind}ForUniversalSegmentation")(config), {"pixel_values": PICTURE}


def rf_detr():
    """Windows of 4 x 4 patches but in layer 2, each with a class token of its own."""
    from transformers import RfDetrConfig, RfDetrForObjectDetection

    backbone = HF_SMALL | {
        "model_type": "rf_detr_dinov2", "patch_size": 8, "num_windows": 2, "mlp_ratio": 2,
        "out_features": ["stage2", "stage4"], "image_size": 72,  # no multiple of its windows
    }  # fmt: skip
    backbone.pop("intermediate_size")
    config = RfDetrConfig(
        backbone_config=backbone, d_model=32, decoder_ffn_dim=48, decoder_layers=1, num_queries=5,
        decoder_self_attention_heads=2, decoder_cross_attention_heads=2, c2f_num_blocks=1, group_detr=1,
    )  # fmt: skip
    return RfDetrForObjectDetection(config), {"pixel_values": PICTURE}


def dpt():
    """With its own encoder."""
    from transformers import DPTConfig, DPTForDepthEstimation

    config = DPTConfig(**HF_SMALL | {"patch_size": 8}, **NECK, backbone_out_indices=[0, 1, 2, 3])
    return DPTForDepthEstimation(config), {"pixel_values": PICTURE}


def dpt_dinov2():
    """Around a DINOv2."""
    from transformers import Dinov2Config, DPTConfig, DPTForDepthEstimation

    backbone = Dinov2Config(
        **HF_SMALL | {"patch_size": 8}, out_features=STAGES, reshape_hidden_states=False
    )
    return DPTForDepthEstimation(DPTConfig(backbone_config=backbone, **NECK, hidden_size=48)), {
        "pixel_values": PICTURE
    }


def zoedepth():
    """Around a BEiT without the bias, as DINOv2's and other backbones have none."""
    from transformers import ZoeDepthConfig, ZoeDepthForDepthEstimation

    backbone = HF_SMALL | {
        "model_type": "beit", "patch_size": 8, "use_relative_position_bias": False,
        "reshape_hidden_states": False, "out_features": STAGES,
    }  # fmt: skip
    config = ZoeDepthConfig(
        backbone_config=backbone, **NECK, bottleneck_features=8, num_relative_features=4,
        bin_embedding_dim=8, num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 0.1, "max_depth": 10.0, "name": "all"}],
    )  # fmt: skip
    return ZoeDepthForDepthEstimation(config), {"pixel_values": PICTURE}


def upernet():
    """Around a DINOv3."""
    from transformers import DINOv3ViTConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = DINOv3ViTConfig(
        **HF_SMALL | {"patch_size": 8, "num_register_tokens": 4}, out_features=STAGES
    )
    config = UperNetConfig(
        backbone_config=backbone,
        hidden_size=16,
        use_auxiliary_head=False,
        pool_scales=[1, 2],
        num_labels=3,
    )
    return UperNetForSemanticSegmentation(config), {"pixel_values": PICTURE}


WHOLE = {
    "internvl": internvl, "qwen3_vl": qwen3_vl, "depth_anything": depth_anything, "sam": sam,
    "sam3": sam3, "eomt": eomt,
    "eomt_dinov3": lambda: eomt("EomtDinov3"), "rf_detr": rf_detr, "dpt": dpt,
    "dpt_dinov2": dpt_dinov2, "zoedepth": zoedepth, "upernet": upernet,
}  # fmt: skip


def make_whole(name: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """One of them, with random weights, and what it is asked."""
    torch.manual_seed(0)
    model, asked = WHOLE[name]()
    return shaken(model), asked
