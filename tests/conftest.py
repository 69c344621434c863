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
