"""The module that is exported: a picture in, the outputs that were asked for by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.attach import family_in
from sparsight.errors import PlanError
from sparsight.ops.partition import WATCHERS
from sparsight.stages.observe import outputs_of

OUTPUTS = {
    "features": "final tokens (batch, tokens, width), prefix tokens first",
    "pooled": "the mean of the final patch tokens (batch, width)",
    "cls": "the first final token (batch, width)",
    "map": "final patch tokens (batch, rows, columns, width)",
}
OF_TAP = "what a layer returns (batch, tokens, width)"
TAP = "tap"  # tap<layer>: the tokens that a layer returns


class Encoder(nn.Module):
    """What of a vision encoder leaves Python; with `told` the kept sets too, as kept0, kept1, ..."""

    def __init__(self, model: nn.Module, outputs: tuple[str, ...], told: bool = False) -> None:
        super().__init__()
        self.model, self.names, self.told = model, outputs, told
        self.family = family_in(model)
        self.prefix = self.family.prefix_tokens(model)
        self.patch_px = self.family.patch_px(model)
        self.taps = tuple(int(name.removeprefix(TAP)) for name in outputs if name not in OUTPUTS)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """(batch, channels, height, width) -> tensors by name."""
        sets: list[Tensor] = []
        with watched(sets), outputs_of(self.model, self.taps) as tapped:
            tokens = self.family.features(self.model, pixel_values)
        found: dict[str, Tensor] = {}
        for name in self.names:
            if name not in OUTPUTS:
                found[name] = tapped[int(name.removeprefix(TAP))].flatten(1, -2)
            else:
                found[name] = self._output(name, tokens, pixel_values)
        if self.told:
            found |= {f"kept{n}": chosen for n, chosen in enumerate(sets)}
        return found

    def _output(self, name: str, tokens: Tensor, pictures: Tensor) -> Tensor:
        if name == "features":
            return tokens
        if name == "cls":
            return tokens[:, 0]
        patches = tokens[:, self.prefix :] if self.prefix else tokens  # no slice that the graph drops
        if name == "pooled":
            return patches.mean(1)
        rows, columns = (pictures.shape[2 + i] // self.patch_px[i] for i in (0, 1))
        return patches.unflatten(1, (rows, columns))


def checked_outputs(outputs: tuple[str, ...], model: nn.Module) -> tuple[str, ...]:
    """`outputs`, none twice; PlanError if the model has no such."""
    family = family_in(model)
    depth = len(family.blocks(model))
    for name in outputs:
        layer = name.removeprefix(TAP)
        if name not in OUTPUTS and not (layer != name and layer.isdecimal() and int(layer) < depth):
            raise PlanError(
                f"there is no output {name!r}: name "
                f"some of {', '.join(OUTPUTS)}, or tap0 to tap{depth - 1}"
            )
    if "cls" in outputs and family.prefix_tokens(model) == 0:
        raise PlanError("this model has no class token: leave cls out, or take pooled")
    if not outputs or len(set(outputs)) < len(outputs):
        raise PlanError("name at least one output, and none twice")
    return outputs


@contextmanager
def watched(sets: list[Tensor]) -> Iterator[None]:
    """While in here, `sets` receives the kept sets (b, k) in the order in which they are found."""

    def see(found: Tensor) -> Tensor:
        sets.append(found)
        return found

    with _watching(see):
        yield


@contextmanager
def forced(sets: list[Tensor]) -> Iterator[None]:
    """While in here, the kept sets are those in `sets` instead of the model's own, in their order."""
    left = iter(sets)
    with _watching(lambda found: next(left).to(found.device, torch.long)):
        yield


@contextmanager
def _watching(see: Any) -> Iterator[None]:
    WATCHERS.append(see)
    try:
        yield
    finally:
        WATCHERS.remove(see)
