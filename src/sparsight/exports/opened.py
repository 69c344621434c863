"""An exported file, open and ready to be called, with the manifest that says what it takes."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.exports.formats import Engine, format_named
from sparsight.exports.formats.base import first_line
from sparsight.exports.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Exported:
    """Called with pictures (batch, channels, height, width), normalised, it gives outputs by name."""

    file: Path
    manifest: Manifest
    engine: Engine

    def check(self, sizes: Iterable[tuple[int, int]], batches: Iterable[int] = (1,)) -> None:
        """ImagesError if the file does not take pictures of one of these sizes, so many at once."""
        shapes = self.manifest.shapes
        for size, batch in product(sizes, batches):
            shapes.check((batch, shapes.channels, *size), self.file.name)

    def __call__(self, pictures: Tensor) -> dict[str, Tensor]:
        """ImagesError if the file does not take such pictures."""
        self.manifest.shapes.check(tuple(pictures.shape), self.file.name)
        plain = pictures.detach().to("cpu", torch.float32).contiguous().numpy()
        try:
            found = self.engine.run(plain)
        except Exception as error:  # each engine has its own kinds
            raise SparsightError(
                f"{self.manifest.format} cannot run {self.file.name} on {tuple(pictures.shape)}: "
                f"{first_line(error)}"
            ) from None
        return {name: torch.from_numpy(value) for name, value in found.items()}


def open_exported(file: str | Path) -> Exported:
    """A file that `export` wrote, with its manifest beside it, in its engine.

    Raises SparsightError in one sentence if it is missing, damaged, of another version, or if the
    engine is not installed or does not take it.
    """
    file = Path(file)
    manifest = read_manifest(file)
    form, names = format_named(manifest.format), tuple(manifest.outputs)
    engine = form.opened(file, manifest.dtype, torch.get_num_threads(), names)
    return Exported(file, manifest, engine)
