"""Tokens as a grid over the picture."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sparsight.errors import UnsupportedModelError


def grid_of(tokens: int, resolution: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of so many patch tokens of a picture, each standing for a square of pixels."""
    height, width = resolution
    rows = round(math.sqrt(tokens * height / width))
    if rows == 0 or tokens % rows or rows * width != tokens // rows * height:
        raise UnsupportedModelError(
            f"{tokens} patch tokens are no grid of squares over {height} x {width} pixels"
        )
    return rows, tokens // rows


def padded_grid_of(tokens: int, resolution: tuple[int, int]) -> tuple[int, int]:
    """The same where the last row and column may stand for less than a square, as in Swin."""
    height, width = resolution
    for side in range(1, max(resolution) + 1):
        rows, columns = -(-height // side), -(-width // side)
        if rows * columns == tokens:
            return rows, columns
    return grid_of(tokens, resolution)  # says what is wrong


AROUND = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # of a token, in rows and columns


def surroundings(
    tokens: Float[Tensor, "b n c"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "b m e"]:
    """Patch tokens as `regrid` interpolates them, each beside its four neighbours on the old grid.

    At the edges a token is its own neighbour.  Where a new token lies between old ones is in how these
    five are weighted.
    """
    grid = tokens.transpose(1, 2).unflatten(2, old)
    wide = F.pad(grid, (1, 1, 1, 1), mode="replicate")
    shifted = [wide[:, :, 1 + y : 1 + y + old[0], 1 + x : 1 + x + old[1]] for y, x in AROUND]
    found = F.interpolate(torch.cat(shifted, 1), new, mode="bilinear", align_corners=False)
    return found.flatten(2).transpose(1, 2)


def regrid(
    tokens: Float[Tensor, "b n c"], prefix: int, old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "b m c"]:
    """Tokens on a grid of `old` rows and columns, interpolated to one of `new`; prefix tokens stay."""
    grid = tokens[:, prefix:].transpose(1, 2).unflatten(2, old)
    patches = F.interpolate(grid, new, mode="bilinear", align_corners=False)
    return torch.cat([tokens[:, :prefix], patches.flatten(2).transpose(1, 2)], 1)
