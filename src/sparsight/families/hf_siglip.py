"""transformers `SiglipVisionModel` and `Siglip2VisionModel`: no prefix token; CLIP's blocks."""

import torch

from sparsight.families.base import Family, is_instance
from sparsight.families.hf import MODELS, NO_DROPOUT, PLACES, requirements
from sparsight.families.hf_clip import PARTS, blocks

SIGLIP = MODELS + "siglip.modeling_siglip.Siglip"
SIGLIP2 = MODELS + "siglip2.modeling_siglip2.Siglip2"
KINDS = (SIGLIP + "VisionModel", SIGLIP2 + "VisionModel")


def _features(m, images):
    """SigLIP takes pictures; SigLIP2 takes patches (b, n, px * px * 3) and the grids they come from."""
    if is_instance(m, SIGLIP + "VisionModel"):
        return m(images, interpolate_pos_encoding=True).last_hidden_state
    px, (b, _, height, width) = m.config.patch_size, images.shape
    grid = (height // px, width // px)
    patches = images.unflatten(3, (grid[1], px)).unflatten(2, (grid[0], px))
    patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(b, grid[0] * grid[1], -1)
    shapes = torch.tensor([grid] * b, device="cpu")  # the model reads its values, on the host
    return m(patches, pixel_attention_mask=None, spatial_shapes=shapes).last_hidden_state


FAMILY = Family(
    name="hf_siglip",
    examples="SigLIP's and SigLIP2's vision towers, alone or in a larger model",
    kinds=KINDS,
    refused=f"{NO_DROPOUT}; the text towers",
    requirements=requirements(
        KINDS,
        blocks,
        (SIGLIP + "EncoderLayer", SIGLIP2 + "EncoderLayer"),
        "self_attn",
        "scale",
        "dropout",
    ),
    blocks=blocks,
    prefix_tokens=lambda m: 0,
    dim=lambda block: block.self_attn.q_proj.in_features,
    heads=lambda block: block.self_attn.num_heads,
    features=_features,
    parts=PARTS,
    **PLACES,
)
