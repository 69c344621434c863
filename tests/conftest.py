"""Shared by all tests: small random models, one for each layout the families must handle."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may download

import pytest
import torch

from sparsight._torchvision import repair

repair()
torch.set_num_threads(2)

import timm  # noqa: E402

from sparsight.attach import family_in  # noqa: E402

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

# The same for transformers: name -> (model's class, changes to its config).
HF_SMALL = {
    "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 96,
    "patch_size": 16, "image_size": 64,
}  # fmt: skip
HF_MODELS = {
    "hf_vit": ("ViTModel", {}),
    "hf_deit": ("DeiTModel", {}),
    "hf_dinov2": ("Dinov2Model", {"drop_path_rate": 0.1}),
    "hf_dinov2_reg": ("Dinov2WithRegistersModel", {"use_swiglu_ffn": True}),
    "hf_dinov3": ("DINOv3ViTModel", {"num_register_tokens": 4, "use_gated_mlp": True}),
    "hf_clip": ("CLIPVisionModel", {"patch_size": 8, "image_size": 32}),
    "hf_siglip": ("SiglipVisionModel", {}),
    "hf_siglip2": ("Siglip2VisionModel", {"num_patches": 16}),
}
ALL_MODELS = (*MODELS, *HF_MODELS)


def make_model(name: str, seed: int = 0, **changes) -> torch.nn.Module:
    """A small model whose biases and scales are random too, so that no part can go missing unseen."""
    torch.manual_seed(seed)
    if name in HF_MODELS:
        import transformers

        kind, extra = HF_MODELS[name]
        config = getattr(transformers, kind).config_class(**(HF_SMALL | extra | changes))
        return shaken(getattr(transformers, kind)(config))
    timm_name, extra = MODELS[name]
    return shaken(timm.create_model(timm_name, **(SMALL | extra | changes)))


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """In evaluation mode, with random vectors, and larger matrices that make attention sharp."""
    drawn_alike = not type(model).__module__.startswith("transformers.")
    for parameter in model.eval().parameters():
        if parameter.ndim < 2:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        elif drawn_alike:
            parameter.data.mul_(2)  # sharper attention: a wrong kept set shows
        else:  # each class of transformers draws in its own way
            parameter.data.normal_(std=1.5 * parameter[0].numel() ** -0.5)
    return model


def make_images(model: torch.nn.Module, batch: int = 2, grid: tuple[int, int] = (9, 7), seed: int = 1):
    """Pictures of `grid` patches: odd and not square, so that N is odd and rows differ from columns."""
    height, width = family_in(model).patch_px(model)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, grid[0] * height, grid[1] * width, generator=generator)


def blocks_of(model: torch.nn.Module):
    """The blocks, dense or sparse."""
    return family_in(model).blocks(model)


def run_features(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Final tokens, as the family has them."""
    return family_in(model).features(model, images)


@pytest.fixture(params=ALL_MODELS)
def model(request):
    """Each of the small models in turn."""
    return make_model(request.param)
