"""What a score may look at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

QK = Callable[[], tuple[Tensor, Tensor]]


def _not_there() -> Any:
    raise AssertionError("a score needs what its method does not provide")


@dataclass(frozen=True)
class View:
    """The tokens of a layer, and ways to what it takes work to know."""

    tokens: Tensor  # (b, n, c), as they are given to what ranks them
    normal: Tensor  # (b, n, c), the same, normalised
    prefix: int
    attention: QK = _not_there  # -> queries and keys, (b, heads, n, d) each
    sample_every: int = 16  # `sampled` reads one query in so many
    tensors: Mapping[str, Any] = field(default_factory=dict)  # what was fitted for the score
    grid: tuple[int, int] | None = None  # rows and columns of the patch tokens
    notes: tuple[Tensor, ...] = ()  # of earlier layers' attention, (b, n - prefix, statistics) each
    count: int = 0  # how many of the tokens will go on, prefix tokens among them
    values: Callable[[], Tensor] = _not_there  # -> (b, heads, n, d)
    projection: Callable[[], Tensor] = _not_there  # -> (c, heads * d), what reads the heads' results
    heads: Callable[[], Tensor] = _not_there  # -> (b, n, heads, d), those results
    before: Callable[[], Tensor] = _not_there  # -> (b, n, c), the tokens before this layer's attention
