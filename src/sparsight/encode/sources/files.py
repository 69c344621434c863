"""Pictures that are files: all of a folder, or those that a text file names."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparsight.encode.listing import Record, readable
from sparsight.encode.sources.base import Source
from sparsight.errors import ImagesError
from sparsight.images import image_files, left_out, look_through


@dataclass(frozen=True)
class Folder(Source):
    """Every image file under a folder, in the order of their names."""

    def records(self) -> Iterator[Record]:
        """Named by their paths in the folder."""
        for path in image_files(self.root):
            yield self.record(path, str(path.relative_to(self.root)))

    def passed(self) -> str:
        """What else is in the folder."""
        return left_out((), look_through(self.root))

    def record(self, path: Path, name: str) -> Record:
        """The line of one file."""
        try:
            status = path.stat()
        except OSError:  # it is told, with its reason, where it is read
            return Record(readable(name), self.file_of(path), 0, 0, 0)
        return Record(readable(name), self.file_of(path), 0, status.st_size, status.st_mtime_ns)

    def bytes_of(self, path: Path, record: Record) -> bytes:
        """The file."""
        return path.read_bytes()


@dataclass(frozen=True)
class NamedFiles(Folder):
    """The files that a text file names, one a line; relative ones are below the text file's folder."""

    def passed(self) -> str:
        """Nothing: all that is named is tried."""
        return ""

    def records(self) -> Iterator[Record]:
        """Named as the text file does."""
        try:
            lines = Path(self.place).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError as error:
            raise ImagesError(f"cannot read {self.place}: {error.strerror}") from None
        for line in lines:
            if line.strip():
                yield self.record(self.root / line.strip(), line.strip())
