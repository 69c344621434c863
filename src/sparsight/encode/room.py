"""How much a sink will take, said before the start; and is there so much room?"""

import shutil
from pathlib import Path

from sparsight.encode.encoder import Encoder
from sparsight.errors import SparsightError

FACTS_BYTES = 4096  # of a picture, at most: its names, sizes and the headers of its arrays
MAP_BYTES = {"float16": 2, "float32": 4}
PART_PICTURES, PART_MAP_BYTES = (
    256,
    256 << 20,
)  # of a part, at most: its maps are held until it is written


def map_bytes(encoder: Encoder) -> int:
    """All maps of one picture, at most."""
    if (size := encoder.loaded.resolution) is not None:
        grid = (size[0] // encoder.patch_px[0], size[1] // encoder.patch_px[1])
        values = encoder.map_values(grid)
    else:
        assert encoder.settings.max_tokens is not None
        values = encoder.map_values((1, 1)) * encoder.settings.max_tokens
    return values * MAP_BYTES[encoder.settings.map_dtype]


def part_size(encoder: Encoder) -> int:
    """Pictures a part, so that the maps of one fit into the memory."""
    return max(1, min(PART_PICTURES, PART_MAP_BYTES // max(1, map_bytes(encoder))))


def check_room(encoder: Encoder, pictures: int, folder: Path) -> str:
    """What so many pictures will take, in words; SparsightError if there is not so much room.

    Where each picture has its own size only the most that they can take is known, and nothing refused.
    """
    maps = pictures * map_bytes(encoder)
    most = maps + pictures * (4 * sum(encoder.widths().values()) + FACTS_BYTES)
    free = shutil.disk_usage(folder).free
    if encoder.loaded.resolution and most > free:
        raise SparsightError(
            f"{pictures:,} pictures would take up to {readable(most)} and {folder} has {readable(free)} "
            "free: leave maps out, give a smaller --resolution, or another --out"
        )
    of_maps = f", {readable(maps)} of them maps" if maps else ""
    return f"{pictures:,} pictures to encode; they will take at most {readable(most)}{of_maps}"


def readable(count: float) -> str:
    """Bytes in units of thousands."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
