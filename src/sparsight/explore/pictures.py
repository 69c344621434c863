"""Pictures of the explorer: those that are dropped in, and one alone as the stages take images."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from sparsight.errors import ImagesError
from sparsight.images import read_picture, short_name

MAX_PIXELS = 80_000_000  # of a picture that is dropped in


@dataclass(frozen=True)
class One:
    """A single picture as the stages take images."""

    picture: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Tensor:
        return self.picture

    def name_of(self, index: int) -> str:
        """Its name."""
        return self.name


def opened(path: str | Path) -> Image.Image:
    """A picture that was dropped in; ImagesError if it is none or too large."""
    try:
        picture = read_picture(Path(path))
    except ImagesError as error:
        # By its name alone: where uploads are kept means nothing to who dropped it in.
        raise ImagesError(str(error).replace(short_name(path), short_name(Path(path).name))) from None
    if picture.width * picture.height > MAX_PIXELS:
        raise ImagesError(f"the picture has more than {MAX_PIXELS // 10**6} million pixels")
    return picture
