"""As much as the picture needs: how many stay under a bound on the error that is predicted of a map.

Counts go in steps, so that few shapes are met and pictures of a batch share theirs.
"""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

if TYPE_CHECKING:  # settings import this
    from torch import Tensor

# The root mean square error predicted of a map, relative to what it is compared with; "calibrated" is
# the one under which, over the calibration pictures, as much stays as without a bound.
Bound = Annotated[float, Field(gt=0)] | Literal["calibrated"] | None

TOKENS_A_STEP = 128
STEPS = 16  # of all windows


def needed(errors: "Tensor", bound: "float | Tensor", step: int, more: int = 0) -> list[int]:
    """How many of n stay in each picture, of `errors` (b, n): those at or above the bound, one more, and
    `more` that do in any case.
    """
    wanted: list[int] = (errors >= bound).sum(1).tolist()
    return [at_least(count, errors.shape[1], step, more) for count in wanted]


def at_least(wanted: int, n: int, step: int, more: int = 0) -> int:
    """One more than are wanted of n, and `more`, in whole steps; all of them at most."""
    return min(n + more, math.ceil((wanted + more + 1) / step) * step)


def check_bound(bound: Bound, score: str, completion: str) -> None:
    """ValueError if nothing predicts the error that it bounds."""
    if bound is not None and (score != "map-error" or completion != "map"):
        raise ValueError("a bound is on the error of the map: set score='map-error', completion='map'")
