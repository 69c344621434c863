"""The policy of sizes: which grid of tokens a picture becomes."""

from math import sqrt

from sparsight.errors import ImagesError

Grid = tuple[int, int]  # rows and columns of patches


def grid_within(size_px: tuple[int, int], patch_px: tuple[int, int], max_tokens: int) -> Grid:
    """The grid nearest to a picture's own size (height, width) that has at most `max_tokens` tokens.

    Both sides shrink alike, so the picture keeps its shape to within a patch.  Raises ImagesError for
    one so long and thin that no grid of its shape is that small.
    """
    rows, columns = (max(1, round(s / p)) for s, p in zip(size_px, patch_px, strict=True))
    if rows * columns > max_tokens:
        scale = sqrt(max_tokens / (rows * columns))
        rows, columns = max(1, int(rows * scale)), max(1, int(columns * scale))
    if rows * columns > max_tokens:
        raise ImagesError(
            f"{size_px[0]}x{size_px[1]} pixels are too long and thin for any grid of {max_tokens} tokens"
        )
    return rows, columns


def name(grid: tuple[int, int]) -> str:
    """As the command line writes sizes: rows x columns."""
    return f"{grid[0]}x{grid[1]}"
