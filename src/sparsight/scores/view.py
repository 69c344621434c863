"""What a score may look at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

QK = Callable[[], tuple[Tensor, Tensor]]


def _no_attention() -> tuple[Tensor, Tensor]:
    raise AssertionError("a score needs attention that its method does not provide")


@dataclass(frozen=True)
class View:
    """The tokens of a layer, and ways to what it takes work to know."""

    tokens: Tensor  # (b, n, c), as they are given to what ranks them
    normal: Tensor  # (b, n, c), the same, normalised
    prefix: int
    attention: QK = _no_attention  # -> queries and keys, (b, heads, n, d) each
    sample_every: int = 16  # `sampled` reads one query in so many
    tensors: Mapping[str, Any] = field(default_factory=dict)  # what was fitted for the score
    grid: tuple[int, int] | None = None  # rows and columns of the patch tokens
    notes: tuple[Tensor, ...] = ()  # of earlier layers' attention, (b, n - prefix, statistics) each
