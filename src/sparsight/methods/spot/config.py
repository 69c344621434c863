"""The settings of SPOT, as plain data."""

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from sparsight.methods.base import (
    Fraction,
    Layers,
    Settings,
    check_available,
    check_everywhere,
    quarters,
)

if TYPE_CHECKING:
    from torch import nn

    from sparsight.families import Family


class SPOT(Settings):
    """Tokens leave before the attention of each of `stages`; after the k-th, rho^k of them are left.

    A small network ranks them before each stage; the plan brings its weights.  It reads a token's
    embedding and the attention statistics of the layer before and of `history` earlier ones.  One
    training serves every `rho`.
    """

    stages: Layers | None = None  # None: at one, two and three quarters of the depth
    rho: Fraction = 0.7
    history: Annotated[int, Field(ge=0)] = 1
    hidden: Annotated[int, Field(ge=1)] = 32  # width of the network
    sample: Annotated[int, Field(ge=1)] = 32  # queries and keys that the statistics are taken from

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stages is not None:
            if not self.stages:
                raise ValueError("stages is empty: name at least one layer, or leave it out")
            if list(self.stages) != sorted(set(self.stages)):
                raise ValueError(f"stages must rise and not repeat, not {list(self.stages)}")
            if self.stages[0] == 0:
                raise ValueError("no token can leave before layer 0: no attention has looked at it yet")
        return self

    @property
    def named_stages(self) -> Layers:
        """`stages` as numbers; only after they have been resolved against a model."""
        if self.stages is None:
            raise ValueError("the stages have not been resolved against a model")
        return self.stages

    def noting(self, stage: int) -> Layers:
        """The layers whose statistics decide who enters layer `stage`."""
        return tuple(range(max(0, stage - 1 - self.history), stage))

    def retained(self, layer: int) -> float:
        """The fraction of the tokens that is in `layer`'s attention."""
        return self.rho ** sum(stage <= layer for stage in self.named_stages)

    def resolved(self, available: Layers, depth: int) -> Self:
        """With `stages` as numbers."""
        check_everywhere(available, depth, "SPOT")
        stages = quarters(depth) if self.stages is None else self.stages
        check_available(stages, available, depth)
        return self.model_copy(update={"stages": stages})

    def label(self) -> str:
        """The share that stays in each stage."""
        return f"rho {self.rho:g}"

    def changed_layers(self, available: Layers) -> Layers:
        """All from the first that is looked at."""
        first = self.noting(self.named_stages[0])[0]
        return tuple(layer for layer in available if layer >= first)


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
