"""What a model takes as pictures, and the refusals of what it does not."""

from dataclasses import dataclass
from math import isfinite
from typing import Any

from sparsight.errors import ImagesError
from sparsight.images.resolution import check_resolution

NORMALISE = "normalise them, or pass sparsight.ImageFolder(folder, resolution, mean, std)"

Normal = tuple[float, ...]


def normal_of(mean: Any, std: Any) -> tuple[Normal, Normal]:
    """Mean and standard deviation as a model has them; ImagesError if they are no such figures."""
    try:
        found = tuple(map(float, mean)), tuple(map(float, std))
        finite = all(map(isfinite, (*found[0], *found[1])))
        if finite and len(found[0]) == len(found[1]) > 0 and min(found[1]) > 0:
            return found
    except (TypeError, ValueError, OverflowError):
        pass
    raise ImagesError(
        f"mean {mean!r:.60} and std {std!r:.60} do not normalise pictures: wanted are as many numbers "
        "as there are channels, std above 0 (a model has them in its configuration)"
    )


@dataclass(frozen=True)
class Wanted:
    """What a model takes, as far as it says so."""

    channels: int
    patch_px: tuple[int, int]
    mean: Normal | None = None  # and std: None if the model does not say
    std: Normal | None = None
    size: tuple[int, int] | None = None  # that files are brought to

    def normal(self) -> tuple[Normal, Normal]:
        """Mean and standard deviation; refused where they are not known for these channels."""
        if self.mean is None or self.std is None:
            raise ImagesError(
                f"pixels are to be normalised, and the model does not say how: {NORMALISE}"
            )
        if len(self.mean) != self.channels:
            raise ImagesError(
                f"the model takes {_channels(self.channels)}, and its mean and std are known for "
                f"{len(self.mean)}: pass tensors, or sparsight.ImageFolder(..., mean, std) with as many"
            )
        return self.mean, self.std

    def of_files(self) -> tuple[tuple[int, int], Normal, Normal]:
        """Resolution, mean and standard deviation for pictures of any size."""
        if self.size is None:
            raise ImagesError(
                "the model does not say to which size pictures are to be brought: "
                "pass sparsight.ImageFolder(folder, resolution, mean, std)"
            )
        check_resolution(self.size, self.patch_px)
        return (self.size, *self.normal())

    def check(self, resolution: tuple[int, int], channels: int) -> None:
        """Refuse a resolution, or files read with so many channels, that the model does not take."""
        check_resolution(resolution, self.patch_px)
        if channels != self.channels:
            raise ImagesError(
                f"the model takes {_channels(self.channels)}, and files are read with "
                f"{channels}: pass tensors, or sparsight.ImageFolder(..., mean, std) with as many"
            )


def _channels(count: int) -> str:
    return f"{count} channel" + "s" * (count > 1)
