"""Pictures as people have them in Python: loaders, data sets, PIL pictures, arrays, file paths.

What a thing means is told by its first picture that can be read, before any work; a later one that does
not fit is left out like a file that cannot be read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.errors import ImagesError
from sparsight.images.files import ImageFiles, ImageFolder
from sparsight.images.folder import check_folder
from sparsight.images.sets import HELD_BYTES, Held, Images, named
from sparsight.images.single import Wanted, looks_plain, picture_in, tensor_of

if TYPE_CHECKING:
    from torch import Tensor

FORM = (
    "a sequence of normalised ({}, h, w) float tensors, or sparsight.ImageFolder(folder, resolution, "
    "mean, std)"
)
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
        size, mean, std = wanted.of_files("a folder")
        given = ImageFolder(given, size, mean, std)
    if isinstance(given, ImageFiles):
        wanted.check(given.resolution, len(given.mean))
        return given
    return Pictures(_indexed(given, wanted, limit, labelled), wanted, labelled)


@dataclass(frozen=True)
class _Loader:
    """A DataLoader of a data set with places: its sampler's places in their order, one at a time."""

    loader: Any
    places: list[int]
    labelled: bool  # items are the data set's own

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        item = self.loader.dataset[self.places[index]]
        if self.labelled:
            return item
        return self.loader.collate_fn(item if self.loader.batch_sampler is None else [item])


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
        name = named(self.items, index)
        try:
            item = self.items[index]
        except ImagesError:
            raise
        except Exception as error:  # of the user's own data set, which may read files or not
            told = " ".join(f"{type(error).__name__}: {error}".split())[:120]
            raise ImagesError(f"{name} of the data set fails ({told})") from None
        if self.labelled:
            return self._with_labels(item, name)
        return tensor_of(picture_in(item, name), self.wanted, name)

    def _with_labels(self, item: Any, name: str) -> "tuple[Tensor, ...]":
        import torch

        if not isinstance(item, tuple | list) or len(item) < 2:
            raise ImagesError(f"{name} has no labels beside it: with a loss, give (picture, labels)")
        picture, *labels = item
        return tensor_of(picture, self.wanted, name), *(torch.as_tensor(label) for label in labels)


def _indexed(given: Any, wanted: Wanted, limit: int | None, labelled: bool) -> Any:
    """Something with a length and places."""
    from torch.utils.data import DataLoader, IterableDataset

    form = FORM.format(wanted.channels)
    if isinstance(given, DataLoader) and not isinstance(given.dataset, IterableDataset):
        return _Loader(given, _places(given), labelled)
    if isinstance(given, Mapping):
        given = picture_in(given, "the batch")
    shape = getattr(given, "shape", None)
    if shape is not None and len(shape) != 4:
        what = "a single picture: put it in a list" if len(shape) in (2, 3) else "no set of pictures"
        raise ImagesError(f"images of shape {tuple(shape)} are {what}; wanted is {form}")
    if isinstance(given, bytes) or not (isinstance(given, Iterable) or hasattr(given, "__getitem__")):
        raise ImagesError(f"{type(given).__name__} is no set of pictures; wanted is {form}")
    has_places = all(hasattr(given, name) for name in ("__len__", "__getitem__"))
    if has_places and not isinstance(given, IterableDataset) and (labelled or not _of_batches(given)):
        return given
    return _read_once(given, limit, labelled)


def _of_batches(given: Any) -> bool:
    """Whether a list holds batches of several pictures, as `list(loader)` does."""
    if not isinstance(given, list | tuple) or not given:
        return False
    try:
        shape: tuple[int, ...] = getattr(picture_in(given[0], "the first"), "shape", ())
    except ImagesError:
        return False
    return len(shape) == 4 and shape[0] > 1


def _places(loader: Any) -> list[int]:
    """The places that a loader's sampler chooses, each once, in their own order."""
    import torch
    from torch.utils.data import BatchSampler

    own = loader.batch_sampler
    with torch.random.fork_rng(devices=[]):  # a sampler that shuffles draws from the global generator
        if own is None or type(own) is BatchSampler:
            chosen: Iterator[Any] = iter(loader.sampler)
        else:
            chosen = (place for batch in own for place in batch)
        return sorted(set(islice(chosen, len(loader.dataset))))


def _read_once(given: Iterable[Any], limit: int | None, labelled: bool) -> list[Any]:
    """The pictures of a stream, batches taken apart, up to `limit` or the memory for pictures."""
    kept: list[Any] = []
    held = 0
    try:
        for item in given:
            for one in [item] if labelled else _taken_apart(item):
                kept.append(one)
                held += _bytes_of(one)
                if len(kept) == limit or held > HELD_BYTES:
                    return kept
    except ImagesError:
        raise
    except Exception as error:  # of the user's own generator; what it gave before counts
        if not kept:
            told = " ".join(f"{type(error).__name__}: {error}".split())[:120]
            raise ImagesError(f"the images cannot be gone through ({told})") from None
    return kept


def _bytes_of(item: Any) -> int:
    """About what a picture takes in memory."""
    try:
        one = picture_in(item, "")
    except ImagesError:
        return 0
    if (known := getattr(one, "nbytes", None)) is not None:
        return int(known)
    size: Any = getattr(one, "size", None)
    width, height = size if isinstance(size, tuple) and len(size) == 2 else (512, 512)
    return 3 * width * height


def _taken_apart(item: Any) -> Sequence[Any]:
    """The pictures of a batch, or the item itself."""
    if isinstance(item, list) and item and len(getattr(item[0], "shape", ())) != 4:
        return item  # a batch that was not collated
    try:
        found = picture_in(item, "an item")
    except ImagesError:
        return [item]  # told when it is asked for
    shape: tuple[int, ...] = getattr(found, "shape", ())
    return list(found) if len(shape) == 4 else [item]
