"""A transformer block that the least relevant tokens do not enter, if it is a stage.

    stay = the count of the highest r, from the embeddings and from A of earlier layers; prefix tokens
    x[stay] = block(x[stay])          who has left keeps its last value

What a layer notes of its attention, the statistics of A among the tokens that are left, travels with
them to the next stage.  With completion, ours, a map makes of the last value what the dense model would.
"""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsight.completions.linear import Regression, normalised
from sparsight.methods.parted import PartedBlock
from sparsight.methods.reduced import CARRY, Reduced, map_name
from sparsight.methods.spot.config import network_names
from sparsight.ops.dynamics import sampled_statistics
from sparsight.ops.partition import all_kept, in_order, others, take, top
from sparsight.scores.relevance import of_view
from sparsight.scores.view import View


class SpotBlock(PartedBlock):
    """A block from the first that is looked at; a stage's tensors are its network's and the maps."""

    def idle(self, tokens: int) -> bool:
        """Whether all tokens stay to the end."""
        config = self._sparsight.config
        last = config.retained(config.named_stages[-1])
        return all_kept(self._sparsight.kept(tokens, last), tokens)

    def before(self, x: Tensor, state: Reduced, host: dict[str, Any]) -> Reduced:
        """In a stage, all but the most relevant leave; their number is the same for every image."""
        if (stay := self.relevant(x, state)) is None:
            return state
        own = stay[:, self._sparsight.prefix :] - self._sparsight.prefix
        still = {n: take(note, own) for n, note in state.notes.items() if n in self.wanted()}
        return replace(self.staying(x, state, stay), notes=still)

    @torch.no_grad()  # a ranking has no gradient
    def relevant(self, x: Tensor, state: Reduced) -> Tensor | None:
        """Those of the tokens there that stay, in their own order; None if all do."""
        config, layer, prefix = self._sparsight.config, self._sparsight.layer, self._sparsight.prefix
        there = state.rows.shape[1]
        count = self._sparsight.kept(x.shape[1], config.retained(layer))
        if all_kept(count, there):
            return None
        earlier = tuple(state.notes[n] for n in config.noting(layer))
        tokens, network = take(x, state.rows), {name: self.tensor(name) for name in network_names()}
        view = View(tokens, normalised(tokens), prefix, tensors=network, notes=earlier)
        return in_order(top(of_view(view), count, prefix), there)

    def after(
        self, x: Tensor, tokens: Tensor, q: Tensor, k: Tensor, state: Reduced
    ) -> tuple[Tensor, Tensor, Reduced]:
        """Nobody leaves here; what a later stage wants to know is noted."""
        notes = {layer: note for layer, note in state.notes.items() if layer in self.wanted()}
        config, layer = self._sparsight.config, self._sparsight.layer
        if any(layer in config.noting(stage) for stage in config.named_stages):
            with torch.no_grad():
                found = sampled_statistics(q, k, self._sparsight.prefix, config.sample)
                notes[layer] = found.flatten(2)
        return x, tokens, replace(state, notes=notes)

    def wanted(self) -> set[int]:
        """The layers whose notes a later stage reads."""
        config, layer = self._sparsight.config, self._sparsight.layer
        return {n for stage in config.named_stages if stage > layer for n in config.noting(stage)}

    def completed_layers(self) -> tuple[int, ...]:
        """The last layer and the taps to come."""
        return self._sparsight.config.taps_of(self._sparsight.layer, self._sparsight.depth)

    def fit(
        self, x: Tensor, host: dict[str, Any], wanted: dict[int, Tensor]
    ) -> Generator[Regression, Tensor, dict[str, Tensor]]:
        """The maps of one stage, from who leaves to the dense results of the layers in `wanted`."""
        state: Reduced | None = getattr(x, CARRY, None)
        found: dict[str, Tensor] = {}
        stay = None if state is None else self.relevant(x, state)
        if state is None or stay is None:
            return found
        rest = others(stay, state.rows.shape[1])
        rows = state.rows.gather(1, rest)
        leaving = take(x, rows)
        for layer in self.completed_layers():
            added = take(wanted[layer], rows) - leaving
            read = normalised(leaving).flatten(0, 1)
            found[map_name(layer)] = yield Regression(read, added.flatten(0, 1))
        return found
