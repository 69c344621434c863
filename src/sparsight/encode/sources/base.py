"""What all sources have in common."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparsight.encode.listing import Record
from sparsight.errors import ImagesError, SparsightError


class UnreadError(ImagesError):
    """The bytes of a picture are not to be had: gone, no permission, a failing disk."""


@dataclass(frozen=True)
class Source:
    """Pictures in a fixed order.  Plain data, so that one process lists and others read."""

    place: str  # as it was given, absolute
    column: str | None = None  # of a table: which holds the pictures  (None: found by its name and type)
    id_column: str | None = None  # of a table: which holds their names  (None: file and row)
    single: bool = True  # a file is one picture, and its change concerns that one alone

    @property
    def root(self) -> Path:
        """What the files of the listing are below."""
        path = Path(self.place)
        return path if path.is_dir() else path.parent

    def records(self) -> Iterator[Record]:
        """Every picture, in an order that is the same each time.  Cheap: no picture is read."""
        raise NotImplementedError

    def passed(self) -> str:
        """What else is there and is no picture, counted by reason; "" if nothing is."""
        return ""

    def bytes_of(self, path: Path, record: Record) -> bytes:
        """The bytes of a picture in its file."""
        raise NotImplementedError

    def read(self, record: Record) -> bytes:
        """The bytes of a picture; UnreadError if they are not there or no longer those listed.

        SparsightError where a whole shard or table changed, or the source itself is gone: then no
        picture is to blame.
        """
        path = self.root / os.fsdecode(record.file)
        try:
            self._check_same(path, record)
            return self.bytes_of(path, record)
        except UnreadError:
            raise
        except (OSError, ImagesError) as error:
            if path.exists():  # half-written by whoever changes it now
                self._check_same(path, record)
            why = getattr(error, "strerror", None) or str(error)
            if not self.single or not self.root.exists():
                raise SparsightError(
                    f"{path} cannot be read ({why}); what was encoded is kept, and the same command "
                    "goes on from there"
                ) from None
            raise UnreadError(f"cannot be read: {why}") from None

    def _check_same(self, path: Path, record: Record) -> None:
        """The file is still what was listed."""
        if path.stat().st_mtime_ns == record.stamp:
            return
        if self.single:
            raise UnreadError("changed after it was listed")
        raise SparsightError(
            f"{path} changed while it was read; what was encoded is kept: put the file back, or "
            "encode into another sink"
        )

    def file_of(self, path: Path) -> bytes:
        """How the listing names a file."""
        return os.fsencode(path.relative_to(self.root) if path.is_relative_to(self.root) else path)
