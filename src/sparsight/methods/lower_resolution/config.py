"""The settings of a lower resolution, as plain data."""

from typing import Literal, Self

from sparsight.methods.base import Fraction, Layers, Settings


class LowerResolution(Settings):
    """The picture is shrunk to `scale` of its sides, the features are enlarged again (bilinear).

    With `completion`, a linear map makes of an enlarged token and its four neighbours what the dense
    model has there, fitted in closed form: the idea of BRIXEL (arXiv 2511.05168) and SPAR (2604.02252),
    which distil the whole model; ours is the map alone.

    It changes the picture and not the model, so it is no plan one could apply: `stages/arm.py` runs it.
    """

    scale: Fraction = 3 / 4
    completion: Literal["none", "map"] = "none"

    def resolved(self, available: Layers, depth: int) -> Self:
        """As it is."""
        return self

    def changed_layers(self, available: Layers) -> Layers:
        """None."""
        return ()

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """From seven eighths down to five; then taught, down to a half."""
        rows = tuple(cls(scale=scale) for scale in (7 / 8, 3 / 4, 5 / 8))
        return (*rows, *(cls(scale=scale).completed() for scale in (3 / 4, 1 / 2)))

    def label(self) -> str:
        """The scale."""
        return f"scale {self.scale:g}" + ", map" * (self.completion == "map")
