"""A transformer block that the least relevant tokens do not enter, if it is a stage.

    stay = the count of the highest r, from the embeddings and from A of earlier layers; prefix tokens
    x[stay] = block(x[stay])          who has left keeps its last value

What a layer notes of its attention, the statistics of A among the tokens that are left, travels with
them to the next stage.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.families import Family
from sparsight.methods.reduced import Reduced, ReducingBlock
from sparsight.methods.spot.config import SPOT, weight_names
from sparsight.methods.spot.relevance import described, relevance
from sparsight.ops.dynamics import sampled_statistics
from sparsight.ops.partition import kept_count, rank, take


@dataclass(frozen=True)
class Noted(Reduced):
    """Which tokens go on, and what is known of them."""

    notes: dict[int, Tensor] = field(default_factory=dict)  # layer -> (b, k - prefix, statistics)


class SpotBlock(ReducingBlock):
    """A block from the first layer that is looked at; a stage's tensors are its network's weights."""

    OWN: ClassVar = ReducingBlock.OWN | {"notes", "wanted"}

    config: SPOT

    def __init__(
        self, original: Any, family: Family, prefix: int, config: SPOT, layer: int,
        tensors: dict[str, Tensor],
    ) -> None:  # fmt: skip
        stages = config.named_stages
        names = weight_names(layer) if layer in stages else ()
        own = {name: tensors[name] for name in names}
        super().__init__(original, family, prefix, config, layer, own)
        self.notes = any(layer in config.noting(stage) for stage in stages)
        self.wanted = {n for stage in stages if stage > layer for n in config.noting(stage)}

    def idle(self, tokens: int) -> bool:
        """Whether all tokens stay to the end."""
        return (
            kept_count(tokens, self.config.retained(self.config.named_stages[-1]), self.prefix) == tokens
        )

    def before(self, x: Tensor, state: Reduced) -> Reduced:
        """In a stage, all but the most relevant leave; their number is the same for every image."""
        count = kept_count(x.shape[1], self.config.retained(self.layer), self.prefix)
        if count >= state.rows.shape[1]:
            return state
        notes = state.notes if isinstance(state, Noted) else {}
        earlier = [notes[layer] for layer in self.config.noting(self.layer) if layer in notes]
        if len(earlier) < len(self.config.noting(self.layer)):
            raise SparsightError(
                f"layer {self.layer} does not know what the layers before have noted of the tokens: a "
                "hook that returns a new tensor loses that (change it in place), and so does gradient "
                "checkpointing with use_reentrant=True (choose False)"
            )
        with torch.no_grad():  # a ranking has no gradient
            patches = take(x, state.rows[:, self.prefix :])
            score = relevance(described(patches, earlier), *self.tensors.values())
            score = torch.cat([score.new_zeros(len(score), self.prefix), score], 1)
            stay = rank(score, self.prefix)[:, :count].sort(1).values
        own = stay[:, self.prefix :] - self.prefix
        still = {layer: take(note, own) for layer, note in notes.items() if layer in self.wanted}
        return Noted(state.rows.gather(1, stay), notes=still)

    def after(
        self, x: Tensor, tokens: Tensor, q: Tensor, k: Tensor, state: Reduced
    ) -> tuple[Tensor, Tensor, Reduced]:
        """Nobody leaves here; what a later stage wants to know is noted."""
        notes = state.notes if isinstance(state, Noted) else {}
        notes = {layer: note for layer, note in notes.items() if layer in self.wanted}
        if self.notes:
            with torch.no_grad():
                notes[self.layer] = self.statistics(q, k)
        return x, tokens, Noted(state.rows, notes=notes)

    def statistics(self, q: Tensor, k: Tensor) -> Tensor:
        """The sampled statistics of all heads, one row for each patch token."""
        return sampled_statistics(q, k, self.prefix, self.config.sample).flatten(2)
