"""SPOT's block: it notes the statistics of its attention, and ranks the tokens if it is a stage."""

from typing import Any

from torch import Tensor

from sparsight.families import Family
from sparsight.methods.pruning.block import PrunedBlock
from sparsight.methods.spot.config import SPOT, weight_names
from sparsight.methods.spot.relevance import described, relevance
from sparsight.ops.dynamics import sampled_statistics


class SpotBlock(PrunedBlock):
    """Its tensors are the weights of the network that ranks before it."""

    config: SPOT

    def __init__(
        self, original: Any, family: Family, prefix: int, config: SPOT, layer: int,
        tensors: dict[str, Tensor],
    ) -> None:  # fmt: skip
        names = weight_names(layer) if layer in config.named_stages else ()
        own = {name: tensors[name] for name in names}
        super().__init__(original, family, prefix, config, layer, own)

    def note(self, q: Tensor, k: Tensor) -> Tensor:
        """The sampled statistics of every head, in one row for each token."""
        return sampled_statistics(q, k, self.prefix, self.config.sample).flatten(2)

    def relevance(self, tokens: Tensor, notes: list[Tensor]) -> Tensor:
        """What the network makes of them."""
        return relevance(described(tokens, notes), *self.tensors.values())
