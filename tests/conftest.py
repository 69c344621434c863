"""Shared by all tests: small random models, one for each layout the families must handle."""

import copy
import os
import signal
import sys
from contextlib import contextmanager

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may download

import pytest
import torch

from sparsight._torchvision import repair

repair()
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)  # a worker has a core

import timm  # noqa: E402

from sparsight.attach import family_in  # noqa: E402
from sparsight.families.base import is_instance  # noqa: E402
from sparsight.methods import method_of, tensor_name  # noqa: E402
from sparsight.plan import Plan  # noqa: E402

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


MADE: dict[str, tuple[torch.nn.Module, torch.Tensor]] = {}  # models, and what the next draws begin from


def make_model(name: str, seed: int = 0, **changes) -> torch.nn.Module:
    """A small model whose biases and scales are random too, so that no part can go missing unseen.

    Each is made once in a process and copied, which takes a fraction of the time.
    """
    key = repr((name, seed, changes, torch.get_default_dtype(), torch.get_default_device()))
    if key not in MADE:
        MADE[key] = (_make_model(name, seed, changes), torch.get_rng_state())
    model, drawn = MADE[key]
    torch.set_rng_state(drawn)
    return copy.deepcopy(model)


def _make_model(name: str, seed: int, changes: dict) -> torch.nn.Module:
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
    drawn_alike = is_instance(
        model, "timm.models.vision_transformer.VisionTransformer", "timm.models.eva.Eva"
    )
    for parameter in model.eval().parameters():
        if parameter.ndim < 2:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        elif drawn_alike:
            parameter.data.mul_(2)  # sharper attention: a wrong kept set shows
        else:  # the others draw each in its own way
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


def attentions_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The attention module of each block."""
    return [family_in(model).parts.attention(block) for block in blocks_of(model)]


def plan_of(model: torch.nn.Module, *methods, seed: int = 3) -> Plan:
    """A plan of methods, resolved, with made-up values for every tensor that they bring.

    Maps are small: what they add is of the size of what a block adds.
    """
    generator, family = torch.Generator().manual_seed(seed), family_in(model)
    depth, resolved, weights = len(blocks_of(model)), [], {}
    for config in methods:
        method = method_of(config)
        config = config.resolved(family.layers_with(method.needs, model), depth)
        resolved.append(config := method.fit(config, model, family))
        for layer, shapes in method.tensors(config, model, family).items():
            for name, shape in shapes.items():
                size = 0.1 if name.startswith("map") else 1.0
                made = size * torch.randn(shape, generator=generator)
                weights[tensor_name(method.name, layer, name)] = made
    return Plan(methods=tuple(resolved)).with_(weights=weights)


@pytest.fixture(params=ALL_MODELS)
def model(request):
    """Each of the small models in turn."""
    return make_model(request.param)


# Stage by stage: pooling before blocks 1, 4 and 7; 5, 6 (adjacent) and 8 (of another width, on a grid
# of odd sides) see all tokens; the windows do not divide the grids, so that they are padded.
SAM2_STAGES, SAM2_GLOBAL, SAM2_WINDOWS = (1, 3, 3, 2), (5, 6, 8), (4, 8, 4, 3)


def make_timm_sam2(seed: int = 0, **changes) -> torch.nn.Module:
    """timm's SAM 2 encoder, small."""
    torch.manual_seed(seed)
    settings = {"embed_dim": 16, "num_heads": 1, "stages": SAM2_STAGES, "window_spec": SAM2_WINDOWS}
    settings |= {"global_att_blocks": SAM2_GLOBAL, "init_values": 0.5} | changes
    return shaken(timm.create_model("sam2_hiera_tiny", **settings))


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
    return shaken(Sam2VisionModel(sam2_config(**changes)))


def make_timm_swin(seed: int = 0, size_px: tuple[int, int] = (92, 76), **changes) -> torch.nn.Module:
    """timm's Swin, small: maps of 23 x 19 and 12 x 10 tokens, which its windows do not divide."""
    from timm.models.swin_transformer import SwinTransformer

    torch.manual_seed(seed)
    settings = {"window_size": (4, 5), "embed_dim": 16, "depths": (2, 4), "num_heads": (1, 2)}
    return shaken(SwinTransformer(img_size=size_px, num_classes=0, **settings | changes))


def make_hf_swin(seed: int = 0, **changes) -> torch.nn.Module:
    """transformers' Swin, small."""
    from transformers import SwinConfig, SwinModel

    torch.manual_seed(seed)
    settings = {"window_size": 4, "embed_dim": 16, "depths": [2, 4], "num_heads": [1, 2]}
    return shaken(SwinModel(SwinConfig(image_size=64, **settings | changes)))


def make_timm_swin_v2(seed: int = 0, size_px: tuple[int, int] = (92, 76), **changes) -> torch.nn.Module:
    """timm's Swin v2, small."""
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    torch.manual_seed(seed)
    settings = {"window_size": (4, 5), "embed_dim": 16, "depths": (2, 4), "num_heads": (1, 2)}
    return shaken(SwinTransformerV2(img_size=size_px, num_classes=0, **settings | changes))


def make_hf_swin_v2(seed: int = 0, **changes) -> torch.nn.Module:
    """transformers' Swin v2, small."""
    from transformers import Swinv2Config, Swinv2Model

    torch.manual_seed(seed)
    settings = {"window_size": 4, "embed_dim": 16, "depths": [2, 4], "num_heads": [1, 2]}
    return shaken(Swinv2Model(Swinv2Config(image_size=64, **settings | changes)))


# Encoders all of whose blocks are windowed
SWINS = {
    "timm_swin": make_timm_swin, "hf_swin": make_hf_swin,
    "timm_swin_v2": make_timm_swin_v2, "hf_swin_v2": make_hf_swin_v2,
}  # fmt: skip
SWIN_GRID = (23, 19)

# Encoders with windowed and global blocks: name -> how to make a small one
WINDOWED = {"timm_sam2": make_timm_sam2, "hf_sam2": make_hf_sam2}


def heed_interrupts():
    """A job in the background of a shell inherits that interrupts are ignored; a user's does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def no_crossover(monkeypatch):
    """Whether a plan pays here is not measured: it takes seconds, and is another answer every time."""
    monkeypatch.setattr("sparsight.stages.steps.crossover", lambda model, plan: (None, []))


@pytest.fixture
def crossover_at_few_tokens(monkeypatch, no_crossover):
    """It is measured, at two sizes so small that nothing is gained."""
    from sparsight.stages import crossover

    monkeypatch.setattr("sparsight.stages.steps.crossover", crossover.crossover)
    monkeypatch.setattr(crossover, "GRID_SIDES", (2, 3))


@pytest.fixture
def no_heic(monkeypatch):
    """As if the extra [heic] were not installed."""
    from sparsight.images.folder import kinds

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    kinds.cache_clear()
    yield
    kinds.cache_clear()


@contextmanager
def other_defaults():
    """Within, tensors that say nothing of dtype and device are float64, and hold no values."""
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
