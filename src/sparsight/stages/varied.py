"""Varied: which pictures to time where the time depends on what they show, as it does under a bound."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.attach import family_in
from sparsight.images import Images
from sparsight.stages import timing

Row = dict[str, Any]  # of a picture: its place, its name, and the share that each method kept


@dataclass(frozen=True)
class Varied:
    """Pictures by how much of them is kept."""

    images: Images
    rows: Sequence[Row]  # the least first

    @classmethod
    def of(cls, images: Images, rows: Sequence[Row]) -> "Varied":
        """By the mean over methods."""
        return cls(images, sorted(rows, key=lambda row: fmean(row["kept"].values())))

    def middle(self, batch: int) -> list[Row]:
        """So many pictures of a middling share; some more than once, if there are too few."""
        first = max(0, (len(self.rows) - batch) // 2)
        chosen = list(self.rows[first : first + batch])
        return [chosen[n % len(chosen)] for n in range(batch)]

    def pictures(self, rows: Sequence[Row], resolution: tuple[int, int], like: Tensor) -> Tensor:
        """(b, channels, height, width) of `resolution`, on the device and of the type of `like`."""
        found = [self.images[row["place"]][None].to(like.device, like.dtype) for row in rows]
        return torch.cat(
            [
                x
                if tuple(x.shape[2:]) == resolution
                else F.interpolate(x, resolution, mode="bilinear", antialias=True)
                for x in found
            ]
        )

    def costs(self, sparse: nn.Module, repeats: int, like: Tensor) -> list[Row]:
        """What the picture takes that keeps least, and what the one takes that keeps most."""
        ends = [self.rows[0], self.rows[-1]]
        given = [self.images[row["place"]][None].to(like.device, like.dtype) for row in ends]
        calls = {str(n): lambda x=x: family_in(sparse).features(sparse, x) for n, x in enumerate(given)}
        times = timing.interleave(calls, repeats, like.device, "Measuring by count")
        return [
            {"name": row["name"], "kept": row["kept"]} | timing.summary(times[str(n)])
            for n, row in enumerate(ends)
        ]
