"""The settings of top-k pruning by class attention, as plain data."""

from typing import Self

from sparsight.methods.base import (
    Fraction,
    Layers,
    Settings,
    check_available,
    check_everywhere,
    quarters,
)


class ClsTopK(Settings):
    """In each layer of `stages` the fraction `keep` of the tokens goes on; `keep`^k after k of them."""

    stages: Layers | None = None  # None: at one, two and three quarters of the depth
    keep: Fraction = 0.7

    def resolved(self, available: Layers, depth: int) -> Self:
        """With `stages` as numbers."""
        check_everywhere(available, depth, "pruning by class attention")
        stages = self.stages or quarters(depth)
        check_available(stages, available, depth)
        return self.model_copy(update={"stages": tuple(sorted(set(stages)))})

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """Keep 0.9 and 0.7 a stage."""
        return tuple(cls(keep=keep) for keep in (0.9, 0.7))

    def label(self) -> str:
        """The share that goes on in each stage."""
        return f"keep {self.keep:g} a stage"

    def changed_layers(self, available: Layers) -> Layers:
        """From the first stage on."""
        return tuple(layer for layer in available if layer >= min(self.stages or ()))
