"""One picture of whatever kind, as the normalised tensor that a model takes, or refused."""

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from sparsight.errors import ImagesError
from sparsight.images.decode import decoded, prepared
from sparsight.images.files import resized, to_tensor
from sparsight.images.resolution import check_resolution
from sparsight.images.wanted import Wanted

if TYPE_CHECKING:
    from torch import Tensor

KEYS = (
    "pixel_values",
    "image",
    "images",
    "img",
    "imgs",
    "pixels",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "bytes",
    "path",
)
FARTHEST = 20.0  # no usual normalisation leads as far from 0; pixels of 0 to 255 do


def picture_in(item: Any) -> Any:
    """The picture of a data set's item: itself, the first of a tuple, or what a usual key holds."""
    if isinstance(item, Mapping):
        for key in KEYS:
            if item.get(key) is not None:
                return picture_in(item[key])
        found = ", ".join(map(str, list(item)[:5]))[:80]
        raise ImagesError(f"its keys are {found}, none of {', '.join(KEYS[:4])}, jpg, png")
    if isinstance(item, tuple | list) and item:
        return picture_in(item[0])
    return item


def tensor_of(given: Any, wanted: Wanted) -> "Tensor":
    """A normalised (channels, height, width) tensor; ImagesError says what is not clear."""
    import torch
    from PIL import Image

    if isinstance(given, str | PathLike | bytes):
        size, mean, std = wanted.of_files()
        return to_tensor(resized(decoded(given, wanted.channels).image, size), mean, std)
    if isinstance(given, Image.Image):
        size, mean, std = wanted.of_files()
        try:
            image = prepared(given, wanted.channels).image
        except Exception as error:  # of a file that is read only now
            raise ImagesError(f"cannot be read ({' '.join(str(error).split())[:100]})") from None
        return to_tensor(resized(image, size), mean, std)
    x = given if isinstance(given, torch.Tensor) else _from_array(given, wanted)
    if x.is_meta or x.layout != torch.strided:
        raise ImagesError(f"a tensor without values or sparse: wanted is {_form(wanted)}")
    x = x.detach()
    if x.ndim == 4 and x.shape[0] == 1:
        x = x[0]
    if x.ndim == 2 and wanted.channels == 1:
        x = x[None]
    if x.ndim != 3:
        kind = "several pictures" if x.ndim > 3 else "no picture with channels"
        raise ImagesError(f"{kind}, of shape {tuple(x.shape)}: wanted is {_form(wanted)}")
    last = x.shape[2] == wanted.channels and x.shape[0] != wanted.channels
    if last and x.dtype == torch.uint8:
        x = x.permute(2, 0, 1)
    elif last:
        raise ImagesError(
            f"channels last, {tuple(x.shape)}: use .permute(2, 0, 1) on normalised "
            "pictures, or give bytes (uint8)"
        )
    if x.shape[0] != wanted.channels:
        raise ImagesError(f"shape {tuple(x.shape)}: wanted is {_form(wanted)}")
    check_resolution((x.shape[1], x.shape[2]), wanted.patch_px)
    if x.dtype == torch.uint8:
        return to_tensor(x.cpu().permute(1, 2, 0).numpy(), *wanted.normal())
    return _checked(x, wanted)


def _checked(x: "Tensor", wanted: Wanted) -> "Tensor":
    """A float picture, if its values can be normalised ones."""
    if not x.is_floating_point():
        raise ImagesError(f"values of {str(x.dtype).removeprefix('torch.')}: wanted is {_form(wanted)}")
    if not x.isfinite().all():
        raise ImagesError("NaN or infinity")
    usual = max((1 / s for s in wanted.std or ()), default=0.0)  # white is at most so far from black
    highest = x.abs().max().item()
    if highest > max(FARTHEST, 2 * usual):
        raise ImagesError(
            f"values up to {highest:.0f}, which are not normalised: divide by 255, subtract "
            "the mean and divide by std, or give bytes (uint8)"
        )
    return x.float()


def looks_plain(x: "Tensor", wanted: Wanted) -> bool:
    """Whether a float picture has the values 0 to 1 of one that nobody has normalised."""
    if wanted.mean is None or wanted.std is None or wanted.channels != len(wanted.mean):
        return False
    blackest = max(-mean / std for mean, std in zip(wanted.mean, wanted.std, strict=True))
    low, high = x.min().item(), x.max().item()
    return blackest < -0.5 and low >= 0 and high <= 1 and high - low > 0.25  # not one flat colour


def _from_array(given: Any, wanted: Wanted) -> "Tensor":
    """An array as a tensor of its own memory: NumPy's may be read-only, or run backwards."""
    import numpy as np
    import torch

    if not hasattr(given, "__array__"):
        raise ImagesError(f"of the type {type(given).__name__}: wanted is {_form(wanted)}")
    try:
        return torch.from_numpy(np.array(given, order="C"))
    except (TypeError, ValueError) as error:  # of a type that torch has not
        raise ImagesError(f"cannot become a tensor ({str(error)[:80]})") from None


def _form(wanted: Wanted) -> str:
    return f"a normalised ({wanted.channels}, h, w) float tensor"
