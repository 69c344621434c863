"""Pictures in tar files, as WebDataset has them; read where they stand, nothing is unpacked."""

import glob
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparsight.encode.listing import Record, readable
from sparsight.encode.sources.base import Source
from sparsight.errors import ImagesError
from sparsight.images import is_passed_over
from sparsight.images.folder import kinds


@dataclass(frozen=True)
class Shards(Source):
    """A tar file, a folder of them, or a pattern like shards/{000..099}.tar or shards/*.tar."""

    single: bool = False

    def records(self) -> Iterator[Record]:
        """Named by shard and member; members that are no pictures are passed over."""
        for path in tars_of(self.place):
            stamp, shard = path.stat().st_mtime_ns, self.file_of(path)
            name = str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)
            try:
                with tarfile.open(path, "r:") as tar:
                    for member in tar:
                        if is_picture(member):
                            called, at = readable(f"{name}/{member.name}"), member.offset_data
                            yield Record(called, shard, at, member.size, stamp)
            except (tarfile.TarError, OSError, ValueError) as error:
                hint = ": unpack it first" if path.suffix != ".tar" else ""
                raise ImagesError(f"{path} is no tar file that can be read ({error}){hint}") from None

    def bytes_of(self, path: Path, record: Record) -> bytes:
        """The member's bytes."""
        with path.open("rb") as file:
            file.seek(record.at)
            return file.read(record.length)


def is_picture(member: tarfile.TarInfo) -> bool:
    """By its ending; names that begin with a dot are what other programs left there."""
    path = Path(member.name)
    return (
        member.isreg()
        and path.suffix.lower() in kinds()[1]
        and not any(is_passed_over(part) for part in path.parts)
    )


def tars_of(place: str) -> list[Path]:
    """The shards of a file, folder or pattern, sorted."""
    if Path(place).is_dir():
        found = sorted(Path(place).glob("*.tar"))
    elif Path(place).is_file():
        found = [Path(place)]
    else:
        found = sorted({Path(one) for text in expanded(place) for one in glob.glob(text)})
    if not found:
        raise ImagesError(f"there is no tar file at {place}")
    return found


def expanded(pattern: str) -> list[str]:
    """ "a{08..10}.tar" as a08.tar, a09.tar, a10.tar."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    before, after = pattern[: match.start()], pattern[match.end() :]
    numbers = range(int(first), int(last) + 1)
    return [text for n in numbers for text in expanded(f"{before}{n:0{len(first)}d}{after}")]
