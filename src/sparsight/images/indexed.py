"""A length and places for whatever holds pictures: loaders, streams, batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sparsight.errors import ImagesError
from sparsight.images.sets import HELD_BYTES
from sparsight.images.single import picture_in

FORM = (
    "a sequence of normalised ({}, h, w) float tensors, or sparsight.ImageFolder(folder, resolution, "
    "mean, std)"
)


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


def told(error: Exception) -> str:
    """Somebody else's error in a few words."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]


def indexed(given: Any, channels: int, limit: int | None, labelled: bool) -> Any:
    """`given` as something with a length and places; what can only be gone through is read once."""
    from torch.utils.data import DataLoader, IterableDataset

    form = FORM.format(channels)
    if isinstance(given, DataLoader) and not isinstance(given.dataset, IterableDataset):
        return _Loader(given, _places(given), labelled)
    if isinstance(given, Mapping):
        given = picture_in(given)
    shape = getattr(given, "shape", None)
    if shape is not None and len(shape) != 4:
        what = "a single picture: put it in a list" if len(shape) in (2, 3) else "no set of pictures"
        raise ImagesError(f"images of shape {tuple(shape)} are {what}; wanted is {form}")
    if isinstance(given, bytes) or not (isinstance(given, Iterable) or hasattr(given, "__getitem__")):
        raise ImagesError(f"{type(given).__name__} is no set of pictures; wanted is {form}")
    has_places = all(hasattr(given, name) for name in ("__len__", "__getitem__"))
    if has_places and not isinstance(given, IterableDataset):
        try:
            len(given)
        except Exception as error:  # of the user's own data set
            raise ImagesError(f"the images have no length ({told(error)}); wanted is {form}") from None
        if labelled or not _of_batches(given):
            return given
    return _read_once(given, limit, labelled)


def _of_batches(given: Any) -> bool:
    """Whether a list holds batches of several pictures, as `list(loader)` does."""
    if not isinstance(given, list | tuple) or not given:
        return False
    try:
        shape: tuple[int, ...] = getattr(picture_in(given[0]), "shape", ())
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
            raise ImagesError(f"the images cannot be gone through ({told(error)})") from None
    return kept


def _bytes_of(item: Any) -> int:
    """About what a picture takes in memory."""
    try:
        one = picture_in(item)
    except ImagesError:
        return 0
    if (known := getattr(one, "nbytes", None)) is not None:
        return int(known)
    size: Any = getattr(one, "size", None)
    width, height = size if isinstance(size, tuple) and len(size) == 2 else (512, 512)
    return 3 * width * height


def _taken_apart(item: Any) -> Sequence[Any]:
    """The pictures of a batch, or the item itself."""
    if isinstance(item, list):
        kinds = {(type(one), len(getattr(one, "shape", ()))) for one in item}
        if len(kinds) == 1 and kinds.pop()[1] != 4:
            return item  # a batch that was not collated; a picture with its label is of two kinds
    try:
        found = picture_in(item)
    except ImagesError:
        return [item]  # told when it is asked for
    shape: tuple[int, ...] = getattr(found, "shape", ())
    return list(found) if len(shape) == 4 else [item]
