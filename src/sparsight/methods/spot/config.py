"""The settings of SPOT, as plain data."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from sparsight.methods.base import Layers
from sparsight.methods.pruning.config import Pruning

if TYPE_CHECKING:
    from torch import nn

    from sparsight.families import Family


class SPOT(Pruning):
    """A small network ranks the tokens before each stage; the plan brings its weights.

    It reads a token's embedding and the attention statistics of the layer before and of `history`
    earlier ones.  One training serves every `rho`.
    """

    history: Annotated[int, Field(ge=0)] = 1
    hidden: Annotated[int, Field(ge=1)] = 32  # width of the network
    sample: Annotated[int, Field(ge=1)] = 32  # queries and keys that the statistics are taken from

    def noting(self, stage: int) -> Layers:
        """The layer before `stage` and the `history` before that."""
        return tuple(range(max(0, stage - 1 - self.history), stage))


def weight_names(stage: int) -> tuple[str, str, str]:
    """Under which names the network before layer `stage` is saved: weight, bias, and last weights."""
    return f"spot.{stage}.inner.weight", f"spot.{stage}.inner.bias", f"spot.{stage}.outer.weight"


def tensors(config: SPOT, model: "nn.Module", family: "Family") -> dict[str, tuple[int, ...]]:
    """The networks a plan must bring, one for each stage."""
    from sparsight.ops.dynamics import statistic_names

    blocks, shapes = family.blocks(model), dict[str, tuple[int, ...]]()
    each = len(statistic_names(family.prefix_tokens(model)))
    for stage in config.named_stages:
        read = sum(family.heads(blocks[layer]) * each for layer in config.noting(stage))
        inner, bias, outer = weight_names(stage)
        shapes |= {
            inner: (config.hidden, family.dim(blocks[stage]) + read),
            bias: (config.hidden,),
            outer: (config.hidden,),
        }
    return shapes
