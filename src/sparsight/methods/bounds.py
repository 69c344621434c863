"""As much as the picture needs: how many stay under a bound on the error that is predicted of a map.

Pictures of a batch keep as many as the one that needs most, and counts go in steps, so that few shapes
are met.
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


def needed(errors: "Tensor", bound: "float | Tensor", step: int, more: int = 0) -> int:
    """How many of n stay, of `errors` (b, n): those at or above the bound, one more, and `more` that do
    in any case.
    """
    wanted = int((errors >= bound).sum(1).max().item())
    return min(errors.shape[1] + more, math.ceil((wanted + more + 1) / step) * step)


def check_bound(bound: Bound, score: str, completion: str) -> None:
    """ValueError if nothing predicts the error that it bounds."""
    if bound is not None and (score != "map-error" or completion != "map"):
        raise ValueError("a bound is on the error of the map: set score='map-error', completion='map'")
