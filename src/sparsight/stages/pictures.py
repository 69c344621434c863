"""Pictures for a model: what is handed over as images, as this model takes it, before any work."""

from typing import Any

import torch
from torch import Tensor, nn

from sparsight.attach import family_in
from sparsight.families.handed import check_is_model
from sparsight.families.inputs import channels_of
from sparsight.images import Images, Wanted, normal_of, pictures_of


def pictures_for(
    model: nn.Module,
    images: Any,
    limit: int | None,
    size: tuple[int, int] | None = None,
    labelled: bool = False,
) -> Images:
    """`images` as normalised tensors that `model` takes; ImagesError in one sentence if they are none.

    `limit`     pictures that are kept of what can be read only once; None: as many as memory allows
    `size`      that files and PIL pictures are brought to; the model's own unless given
    `labelled`  items are tuples of a picture and its labels
    """
    return pictures_of(images, wanted_by(model, size), limit, labelled)


def check_takes(model: nn.Module, resolution: tuple[int, int], channels: int = 3) -> None:
    """Refuse a resolution, or files read with so many channels, that `model` does not take."""
    wanted_by(model).check(resolution, channels)


def wanted_by(model: nn.Module, size: tuple[int, int] | None = None) -> Wanted:
    """What `model` says of the pictures it takes: timm's models know their size and normalisation."""
    check_is_model(model)
    cfg = getattr(model, "pretrained_cfg", None) or {}
    own = getattr(getattr(model, "patch_embed", None), "img_size", None)
    said = [cfg.get(name) for name in ("mean", "std")]
    mean, std = (None, None) if None in said else normal_of(*said)
    return Wanted(
        channels_of(model), family_in(model).patch_px(model), mean, std,
        size or (tuple(own) if own else None),
    )  # fmt: skip


def noise(model: nn.Module, resolution: tuple[int, int], batch: int = 1) -> Tensor:
    """Random pictures (batch, channels, height, width) as the model takes them, to time it on."""
    like = next(model.parameters())
    shape = (batch, channels_of(model), *resolution)
    return torch.randn(shape, device=like.device, dtype=like.dtype)
