"""Pictures as people have them in Python: loaders, data sets, PIL pictures, arrays, file paths.

What a thing means is told by its first picture that can be read, before any work; a later one that does
not fit is left out like a file that cannot be read.
"""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.errors import ImagesError
from sparsight.images.files import ImageFiles, ImageFolder
from sparsight.images.folder import check_folder
from sparsight.images.indexed import indexed, told
from sparsight.images.names import short_name
from sparsight.images.sets import Held, Images, named
from sparsight.images.single import looks_plain, picture_in, tensor_of
from sparsight.images.wanted import Wanted

if TYPE_CHECKING:
    from torch import Tensor

TRIED = 8  # places, evenly spread, where one picture has to be readable


def pictures_of(given: Any, wanted: Wanted, limit: int | None, labelled: bool = False) -> Images:
    """`given` as a set of normalised tensors; ImagesError with one sentence if that cannot be.

    What can only be gone through (a generator, a loader of a stream) is read once, `limit` pictures of
    it at most; None: as far as the memory for pictures goes.  With `labelled` an item is a tuple, and
    all but its picture stays as it is.
    """
    if isinstance(given, Held | Pictures):
        return given
    if isinstance(given, str | PathLike):
        check_folder(Path(given))
        size, mean, std = wanted.of_files()
        given = ImageFolder(given, size, mean, std)
    if isinstance(given, ImageFiles):
        wanted.check(given.resolution, len(given.mean))
        return given
    return Pictures(indexed(given, wanted.channels, limit, labelled), wanted, labelled)


class Pictures:
    """What was handed over, each picture checked and as a normalised tensor when it is asked for."""

    def __init__(self, items: Any, wanted: Wanted, labelled: bool) -> None:
        self.items, self.wanted, self.labelled = items, wanted, labelled
        own = [getattr(items, name, None) for name in ("mean", "std")]  # an array has methods so called
        self.mean = own[0] if isinstance(own[0], tuple) else wanted.mean
        self.std = own[1] if isinstance(own[1], tuple) else wanted.std
        self.asked: dict[int, Any] = {}  # by the check alone: a picture is read once
        self._check()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        if index not in self.asked:
            return self._read(index)
        found = self.asked.pop(index)
        if isinstance(found, ImagesError):
            raise found
        return found

    def name_of(self, index: int) -> str:
        """What the set calls it."""
        return named(self.items, index)

    def _check(self) -> None:
        """Refuse the set if it is empty, or if none of a few of its pictures can be read."""
        total = len(self)
        if total == 0:
            raise ImagesError("there is no image")
        first = None
        for place in (*range(min(TRIED, total)), *range(TRIED, total, max(1, total // TRIED))):
            found = self.asked[place] = self._tried(place)
            if not isinstance(found, ImagesError):
                break
            first = first or found
        else:
            raise ImagesError(f"none of the {total} images can be read: {first}")
        # One picture may happen to lie within 0 and 1; several have not been normalised.
        for other in (place, *range(0, total, max(1, total // 3))):
            if other not in self.asked:
                self.asked[other] = self._tried(other)
            if not self._looks_plain(other):
                return
        raise ImagesError(
            "the pictures have values of 0 to 1, which are not normalised: subtract the model's mean "
            f"{self.wanted.mean} and divide by its std {self.wanted.std}, or give bytes (uint8)"
        )

    def _looks_plain(self, place: int) -> bool:
        """Whether a picture that was asked for is one of floats that nobody has normalised."""
        picture = self.asked[place]
        if isinstance(picture, ImagesError):
            return True  # says nothing of the others
        picture = picture[0] if self.labelled else picture
        return looks_plain(picture, self.wanted)

    def _tried(self, place: int) -> Any:
        try:
            return self._read(place)
        except ImagesError as error:
            return error

    def _read(self, index: int) -> Any:
        try:
            item = self.items[index]
        except ImagesError:
            raise
        except Exception as error:  # of the user's own data set, which may read files or not
            raise self._error(index, f"the data set fails ({told(error)})") from None
        try:
            if self.labelled:
                return _with_labels(item, self.wanted)
            return tensor_of(picture_in(item), self.wanted)
        except ImagesError as error:
            raise self._error(index, str(error)) from None

    def _error(self, index: int, reason: str) -> ImagesError:
        """With the picture's name, unless a file's is in it already."""
        if reason.startswith("cannot read "):
            return ImagesError(reason)
        return ImagesError(f"{short_name(named(self.items, index))}: {reason}")


def _with_labels(item: Any, wanted: Wanted) -> "tuple[Tensor, ...]":
    import torch

    if not isinstance(item, tuple | list) or len(item) < 2:
        raise ImagesError("no labels beside it: with a loss, give pairs of a picture and its labels")
    picture, *labels = item
    return tensor_of(picture, wanted), *(torch.as_tensor(label) for label in labels)
