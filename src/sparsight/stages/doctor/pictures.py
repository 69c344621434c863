"""What a folder of pictures holds: how many are usable, which are not and why, and their sizes."""

import time
from collections import Counter
from typing import Any

from sparsight.errors import ImagesError
from sparsight.images import ImageFolder, decoded, left_out

BUDGET_S = 4.0  # for decoding; a full folder may hold more than can be looked at
NAMED = 20  # files that are left out, by name
SHOWN = 5  # sizes


def look_at(
    images: ImageFolder, patch_px: tuple[int, int], channels: int, tokens: int, prefix: int,
    budget_s: float = BUDGET_S,
) -> dict[str, Any]:  # fmt: skip
    """Decode pictures, evenly spread, as far as the budget goes, and count.

    `tokens` are those of a picture of the images' resolution, `prefix` of them before its patches.
    """
    ends = time.perf_counter() + budget_s
    sizes: Counter[tuple[int, int]] = Counter()
    unread: list[dict[str, str]] = []
    notes: Counter[str] = Counter()
    for place in _spread(len(images)):
        if time.perf_counter() > ends and sizes.total() + len(unread):
            break
        try:
            picture = decoded(images.paths[place], channels)
        except ImagesError as error:
            unread.append({"file": images.name_of(place), "why": str(error)})
            continue
        notes.update(picture.notes)
        sizes[picture.image.height, picture.image.width] += 1
    area = images.resolution[0] * images.resolution[1]

    def row(size: tuple[int, int]) -> dict[str, Any]:
        fitting = [max(1, round(s / p)) * p for s, p in zip(size, patch_px, strict=True)]
        own = prefix + round((tokens - prefix) * fitting[0] * fitting[1] / area)
        return {"size": list(size), "pictures": sizes[size], "fitting": fitting, "tokens": own}

    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    return {
        "folder": str(images.folder),
        "files": len(images),
        "decoded": sizes.total() + len(unread),
        "usable": sizes.total(),
        "left_out": left_out([one["why"] for one in unread], images),
        "unread": unread[:NAMED],
        "unread_count": len(unread),
        "passed": dict(images.passed),
        "notes": [f"{count} x {note}" for note, count in notes.items()],
        "smallest": row(by_area[0]) if by_area else None,
        "largest": row(by_area[-1]) if by_area else None,
        "most_common": [row(size) for size, _ in sizes.most_common(SHOWN)],
        "enlarged": sum(
            count for size, count in sizes.items()
            if size[0] < images.resolution[0] or size[1] < images.resolution[1]
        ),
    }  # fmt: skip


def _spread(count: int) -> list[int]:
    """All places, so ordered that the first few are spread over the whole set."""
    step = 1
    while step * step < count:
        step += 1
    return [place for first in range(step) for place in range(first, count, step)]
