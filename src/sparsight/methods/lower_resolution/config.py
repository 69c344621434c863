"""The settings of a lower resolution, as plain data."""

from typing import Self

from sparsight.methods.base import Fraction, Layers, Settings


class LowerResolution(Settings):
    """The picture is shrunk to `scale` of its sides, the features are enlarged again (bilinear).

    It changes the picture and not the model, so it is no plan one could apply: `stages/arm.py` runs it.
    """

    scale: Fraction = 3 / 4

    def resolved(self, available: Layers, depth: int) -> Self:
        """As it is."""
        return self

    def changed_layers(self, available: Layers) -> Layers:
        """None."""
        return ()

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """From seven eighths down to a half."""
        return tuple(cls(scale=scale) for scale in (7 / 8, 3 / 4, 5 / 8))

    def label(self) -> str:
        """The scale."""
        return f"scale {self.scale:g}"
