"""How pictures become what a vision tower's forward takes, told by the names of its arguments.

Towers of transformers take pictures, or patches that their processor has cut: packed with a table of
grids, or in rows with the place of each.  timm's take pictures.
"""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparsight.families.base import classes_of
from sparsight.families.parts import Host

if TYPE_CHECKING:
    from torch import Tensor

PRETRAINED = "transformers.modeling_utils.PreTrainedModel"
CHANNELS = ("num_channels", "in_channels", "in_chans")  # a config's names, here and below
FRAMES = ("temporal_patch_size", "patch_temporal")
CLIPS = ("num_frames", "frames_per_clip")
MERGES = ("spatial_merge_size", "merge_kernel_size", "pooling_kernel_size")


def arguments(model: Host) -> tuple[str, ...]:
    """The names of what a model's own forward takes."""
    try:
        found = inspect.signature(getattr(type(model), "HOST", type(model)).forward)
    except (TypeError, ValueError):
        return ()
    return tuple(found.parameters)[1:]


def takes_pictures(model: Host) -> bool:
    """Whether it is a model of timm or transformers whose forward begins with pictures or patches."""
    classes = tuple(classes_of(model))
    if PRETRAINED in classes:
        names = arguments(model)
        return names[:1] == ("pixel_values",) or (
            names[:1] == ("hidden_states",) and "grid_thw" in names
        )
    return any(name.startswith("timm.models.") for name in classes) and hasattr(
        model, "forward_features"
    )


def side(value: Any) -> int:
    """A size that is one number, or two alike."""
    return int(value[-1] if isinstance(value, list | tuple) else value)


def merge_of(model: Host) -> int:
    """How many patches a side become one token at the tower's end, whose grids are multiples of it."""
    config = getattr(model, "config", None)
    found = [side(value) for name in MERGES if (value := getattr(config, name, None))]
    return found[0] if found else 1


def patch_of(model: Host) -> int | None:
    """The side of a patch, where the model says it."""
    config, own = getattr(model, "config", None), getattr(model, "patch_embed", None)
    if (ratio := getattr(own, "feat_ratio", None)) is not None:  # timm's, behind convolutions too
        return int(ratio())
    value = getattr(config, "patch_size", None) or getattr(own, "patch_size", None)
    return None if value is None else side(value)


def takes_clips(model: Host) -> bool:
    """Whether its config says that it takes so many frames at once."""
    config = getattr(model, "config", None)
    return any(getattr(config, name, None) for name in CLIPS)


def own_size(model: Host) -> tuple[int, int] | None:
    """Height and width of the pictures that a model was made for, where it says so."""
    config, own = getattr(model, "config", None), getattr(model, "patch_embed", None)
    size = getattr(own, "img_size", None) or getattr(config, "image_size", None)
    if size is None:
        size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (None,))[1:] or None
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def channels_of(model: Host) -> int:
    """Of the pictures a model takes: what its config says, or its first convolution reads."""
    config = getattr(model, "config", None)
    said = [value for name in CHANNELS if (value := getattr(config, name, None))]
    if said:
        return side(said[0])
    convolutions = (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    return next((m.in_channels for m in convolutions), 3)


def inputs_of(model: Host, pictures: "Tensor", flat: bool) -> dict[str, Any]:
    """The arguments of `model.forward` for pictures (b, c, height, width).

    `flat`: packed patches are rows of values and no small maps; no name tells.
    """
    names = arguments(model)
    if PRETRAINED not in classes_of(model):
        return {names[0]: pictures}
    if "grid_thw" in names:
        return _packed(model, pictures, names, flat)
    (b, c, height, width), px = pictures.shape, patch_of(model) or 1
    grid = (height // px, width // px)
    found: dict[str, Any] = {"pixel_values": pictures}
    if "spatial_shapes" in names:  # SigLIP 2
        found = {"pixel_values": _patches(pictures, px), "pixel_attention_mask": None}
        found["spatial_shapes"] = torch.tensor([grid] * b)  # its values are read, on the host
    elif "pixel_position_ids" in names:  # Gemma 4
        rows, columns = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
        places = torch.stack([columns, rows], -1).view(1, -1, 2).expand(b, -1, -1)
        found = {
            "pixel_values": _patches(pictures, px),
            "pixel_position_ids": places.to(pictures.device),
        }
    elif "target_sizes" in names:  # MiniCPM-V: all patches side by side
        strip = _cut(pictures, px).permute(1, 4, 0, 2, 3, 5).reshape(1, c, px, -1)
        found = {"pixel_values": strip, "target_sizes": torch.tensor([grid] * b)}
    if "interpolate_pos_encoding" in names:
        found["interpolate_pos_encoding"] = True
    return found


def _cut(pictures: "Tensor", px: int) -> "Tensor":
    """(b, c, rows, columns, px, px)."""
    return pictures.unfold(2, px, px).unfold(3, px, px)


def _patches(pictures: "Tensor", px: int) -> "Tensor":
    """(b, patches, px * px * c), a patch's values pixel by pixel."""
    return _cut(pictures, px).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def _packed(model: Host, pictures: "Tensor", names: tuple[str, ...], flat: bool) -> dict[str, Any]:
    """Patches of all pictures, in blocks that are merged later, and their grids.

    Most towers take them flat (sum, c * frames * px * px); what convolves them as maps itself takes
    (sum, c, px, px), or the same behind a batch of one.
    """
    config = model.config
    px, merge = patch_of(model) or 1, merge_of(model)
    cut = _cut(pictures, px)
    b, c, rows, columns = cut.shape[:4]
    blocks = cut.reshape(b, c, rows // merge, merge, columns // merge, merge, px, px)
    patches = blocks.permute(0, 2, 4, 3, 5, 1, 6, 7).reshape(-1, c, px, px)
    if flat:
        frames = next((side(v) for n in FRAMES if (v := getattr(config, n, None))), 1)
        patches = patches[:, :, None].expand(-1, -1, frames, -1, -1).flatten(1)
    elif "attention_mask" in names:  # PaddleOCR-VL
        patches = patches[None]
    grids = torch.tensor([[1, rows, columns]] * b, device=pictures.device)
    found: dict[str, Any] = {"pixel_values" if "pixel_values" in names else names[0]: patches}
    found["grid_thw"] = grids
    if "merge_sizes" in names:
        found["merge_sizes"] = torch.tensor([merge] * b, device=pictures.device)
    return found
