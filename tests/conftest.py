"""Shared by all tests: small random models, one for each layout the families must handle."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may download

import pytest
import torch

from sparsight._torchvision import repair

repair()
torch.set_num_threads(2)

import timm  # noqa: E402

SMALL = {"embed_dim": 48, "depth": 4, "num_heads": 3, "dynamic_img_size": True}

# name -> (timm name, changes): prefix of 0, 1, 4 and 5 tokens, RoPE plain and mixed, LayerScale, QK
# norm, SwiGLU, pre-norm, attention pooling.
MODELS = {
    "augreg": ("vit_tiny_patch16_224", {}),
    "deit3": ("deit3_small_patch16_224", {}),
    "dinov2": ("vit_small_patch14_dinov2", {"img_size": 224}),
    "dinov2_reg": ("vit_small_patch14_reg4_dinov2", {"img_size": 224}),
    "clip": ("vit_base_patch16_clip_224", {}),
    "siglip": ("vit_base_patch16_siglip_224", {}),
    "qk_norm": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "gated": ("vit_tiny_patch16_224", {"scale_attn_norm": True, "scale_mlp_norm": True}),
    "dinov3": ("vit_small_patch16_dinov3", {}),
    "eva02": ("eva02_tiny_patch14_224", {}),
    "rope_mixed": ("vit_small_patch16_rope_mixed_224", {}),
    "rope_gap": ("vit_betwixt_patch16_rope_reg4_gap_256", {}),
}


def make_model(name: str, seed: int = 0, **changes) -> torch.nn.Module:
    """A small model whose biases and scales are random too, so that no part can go missing unseen."""
    timm_name, extra = MODELS[name]
    torch.manual_seed(seed)
    model = timm.create_model(timm_name, **(SMALL | extra | changes)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        else:
            parameter.data.mul_(2)  # sharper attention: a wrong kept set shows
    return model


def make_images(model: torch.nn.Module, batch: int = 2, grid: tuple[int, int] = (9, 7), seed: int = 1):
    """Pictures of `grid` patches: odd and not square, so that N is odd and rows differ from columns."""
    height, width = model.patch_embed.patch_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, grid[0] * height, grid[1] * width, generator=generator)


@pytest.fixture(params=MODELS)
def model(request):
    """Each of the small models in turn."""
    return make_model(request.param)


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """In evaluation mode, with random biases and scales, and attention sharper than at a start."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        else:
            parameter.data.mul_(5)
    return model.eval()


# Stage by stage: pooling before blocks 1, 4 and 7; 5, 6 (adjacent) and 8 (of another width, on a grid
# of odd sides) see all tokens; the windows do not divide the grids, so that they are padded.
SAM2_STAGES, SAM2_GLOBAL, SAM2_WINDOWS = (1, 3, 3, 2), (5, 6, 8), (4, 4, 4, 3)


def make_timm_sam2(seed: int = 0, **changes) -> torch.nn.Module:
    """timm's SAM 2 encoder, small."""
    torch.manual_seed(seed)
    settings = {"embed_dim": 16, "num_heads": 1, "stages": SAM2_STAGES, "window_spec": SAM2_WINDOWS}
    settings |= {"global_att_blocks": SAM2_GLOBAL, "init_values": 0.5} | changes
    return randomised(timm.create_model("sam2_hiera_tiny", **settings))


def sam2_config(**changes):
    """Settings of a small transformers `Sam2VisionModel`, the same encoder as timm's."""
    from transformers import Sam2HieraDetConfig, Sam2VisionConfig

    hiera = Sam2HieraDetConfig(
        hidden_size=16, num_attention_heads=1, blocks_per_stage=list(SAM2_STAGES),
        embed_dim_per_stage=[16, 32, 64, 128], num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=list(SAM2_WINDOWS), global_attention_blocks=list(SAM2_GLOBAL), **changes,
    )  # fmt: skip
    return Sam2VisionConfig(
        backbone_config=hiera, backbone_channel_list=[128, 64, 32, 16], fpn_hidden_size=24
    )


def make_hf_sam2(seed: int = 0, **changes) -> torch.nn.Module:
    """transformers' SAM 2 encoder with its neck, small."""
    from transformers import Sam2VisionModel

    torch.manual_seed(seed)
    model = Sam2VisionModel(sam2_config(**changes))
    for embedding in (model.backbone.pos_embed, model.backbone.pos_embed_window):
        torch.nn.init.normal_(embedding, std=0.2)
    return randomised(model)


# Encoders with windowed and global blocks: name -> how to make a small one
WINDOWED = {"timm_sam2": make_timm_sam2, "hf_sam2": make_hf_sam2}
