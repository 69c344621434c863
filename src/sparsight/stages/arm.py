"""Arm: one way of computing a model's features, as comparisons run it."""

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.attach import apply, family_in
from sparsight.completions.linear import mapped
from sparsight.fit import resolve
from sparsight.methods import tensor_name
from sparsight.methods.lower_resolution import LowerResolution
from sparsight.ops.grids import grid_of, regrid, surroundings
from sparsight.plan import Plan


class Features(NamedTuple):
    """Final tokens, and the size of the picture they were computed from."""

    tokens: Tensor  # (b, n, c)
    size: tuple[int, int]


@dataclass(frozen=True)
class Arm:
    """A model, dense or with a plan applied, run on pictures of `scale` times their sides.

    With a `table`, its features are of the full size, mapped from those of the smaller picture.
    """

    model: nn.Module
    scale: float = 1.0
    table: Tensor | None = None  # (5 c + 1, c)

    def __call__(self, pictures: Tensor) -> Features:
        """Features of pictures (b, 3, height, width), at the arm's own size."""
        own = self.small(pictures)
        if self.table is None:
            return own
        full = (pictures.shape[2], pictures.shape[3])
        prefix = family_in(self.model).prefix_tokens(self.model)
        patches = mapped(self.read(own, full), self.table)
        return Features(torch.cat([own.tokens[:, :prefix], patches], 1), full)

    def small(self, pictures: Tensor) -> Features:
        """Features of the smaller pictures."""
        size = self.size_of((pictures.shape[2], pictures.shape[3]))
        if size != tuple(pictures.shape[2:]):
            pictures = F.interpolate(pictures, size, mode="bilinear", antialias=True)
        return Features(family_in(self.model).features(self.model, pictures), size)

    def full_size(self, pictures: Tensor) -> Tensor:
        """Features (b, n, c) with as many tokens as the dense model has of these pictures."""
        return self.enlarged(self(pictures), (pictures.shape[2], pictures.shape[3]))

    def enlarged(self, own: Features, full: tuple[int, int]) -> Tensor:
        """Features of a picture of size `full` from those at the arm's own size."""
        tokens, size = own
        if size == full:
            return tokens
        prefix = family_in(self.model).prefix_tokens(self.model)
        return regrid(tokens, prefix, *self.grids(own, full))

    def read(self, own: Features, full: tuple[int, int]) -> Tensor:
        """What the map reads, (b, patches of a picture of size `full`, 5 c)."""
        prefix = family_in(self.model).prefix_tokens(self.model)
        return surroundings(own.tokens[:, prefix:], *self.grids(own, full))

    def grids(self, own: Features, full: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of features, and of a picture of size `full`."""
        prefix = family_in(self.model).prefix_tokens(self.model)
        rows, columns = grid_of(own.tokens.shape[1] - prefix, own.size)
        return (rows, columns), (rows * full[0] // own.size[0], columns * full[1] // own.size[1])

    def size_of(self, full: tuple[int, int]) -> tuple[int, int]:
        """Height and width to run at, in whole patches."""
        if self.scale == 1:
            return full
        height, width = family_in(self.model).patch_px(self.model)
        return (
            max(1, round(full[0] * self.scale / height)) * height,
            max(1, round(full[1] * self.scale / width)) * width,
        )


def arm_of(model: nn.Module, plan: Plan, resolution: tuple[int, int]) -> Arm:
    """`plan` applied to a copy of `model`, for pictures of `resolution` = (height, width)."""
    changed = copy.deepcopy(model)
    lower = plan.find(LowerResolution)
    if lower is None:
        return Arm(apply(changed, plan))
    plan, last = resolve(plan, changed, family_in(changed)), len(family_in(changed).blocks(changed)) - 1
    table = plan.weights.get(tensor_name("lower-resolution", last, "map"))
    if table is not None:
        like = next(changed.parameters())
        table = table.to(like.device, like.dtype)
    arm = Arm(changed, lower.scale, table)
    # A model of timm may take one size only until it is told another.
    if getattr(getattr(changed, "patch_embed", None), "strict_img_size", False):
        family, same = family_in(changed), {}
        if family.windows is not None:  # they would shrink with the picture
            blocks = family.blocks(changed)
            firsts = [units[0][0] for units in family.windows.stages(changed)]
            same["window_size"] = [family.windows.size(blocks[layer]) for layer in firsts]
        changed.set_input_size(img_size=arm.size_of(resolution), **same)  # type: ignore[operator]
    return arm
