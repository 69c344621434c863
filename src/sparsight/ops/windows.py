"""Windows of a token map as rows of token numbers, and moving whole windows by them.

The number of a place that holds no token, because the map was padded to whole windows, is one past the
last token's.
"""

from jaxtyping import Float, Int
from torch import Tensor, arange, compiler, where
from torch.nn.functional import pad


def window_table(
    grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], rolls_first: bool
) -> Int[Tensor, "w l"]:
    """Which tokens of a map of `grid` are in each window, row by row, as a host's partition has them.

    `grid`, `window` and `shift` are heights and widths in tokens.  The map is shifted up and left before
    it is padded at the bottom and right, or, without `rolls_first`, after.
    """
    (height, width), (tall, wide) = grid, window
    numbers = arange(height * width).view(height, width)
    back, padding = (-shift[0], -shift[1]), (0, -width % wide, 0, -height % tall)
    if rolls_first:
        numbers = pad(numbers.roll(back, (0, 1)), padding, value=height * width)
    else:
        numbers = pad(numbers, padding, value=height * width).roll(back, (0, 1))
    down, across = numbers.shape[0] // tall, numbers.shape[1] // wide
    cut = numbers.view(down, tall, across, wide).transpose(1, 2)
    return cut.reshape(down * across, tall * wide)


def in_windows(x: Float[Tensor, "b n"], table: Int[Tensor, "w l"]) -> Float[Tensor, "b w l"]:
    """A figure per token, laid out in windows; zero where there is no token."""
    return pad(x, (0, 1))[:, table]


def window_strengths(scores: Float[Tensor, "b n"], table: Int[Tensor, "w l"]) -> Float[Tensor, "b w"]:
    """How strong each window is: the root mean square of its tokens' scores.

    It ranks like their L2 norm (SparseViT).  Places without a token count as zero.
    """
    return in_windows(scores, table).square().mean(dim=2).sqrt()


def rank_windows(strengths: Float[Tensor, "b w"]) -> Int[Tensor, "b w"]:
    """The windows of each picture, strongest first."""
    if compiler.is_exporting():  # engines have no stable sort, but a TopK that takes the first of equals
        return strengths.topk(strengths.shape[1], dim=1).indices
    return strengths.argsort(dim=1, descending=True, stable=True)


def window_rows(
    x: Float[Tensor, "b n c"], table: Int[Tensor, "w l"], chosen: Int[Tensor, "b k"]
) -> Int[Tensor, " r"]:
    """The rows of chosen windows among all tokens of a batch; b n is the place without a token.

    Take them with `x.flatten(0, 1).index_select(0, rows)`, with one row more where a map was padded.
    """
    b, n, _ = x.shape
    numbers = table.index_select(0, chosen.reshape(-1)).view(b, -1)
    starts = arange(0, b * n, n, device=x.device)[:, None]
    return where(numbers == n, b * n, numbers + starts).view(-1)
