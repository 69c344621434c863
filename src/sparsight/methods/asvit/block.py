"""A transformer block that tokens below a threshold do not enter, if it is a stage.

    R[h, i] = || o[h, i] || / sum over heads of || o[., i] ||      o: what a head returns for a token
    S[i]    = sum over heads of R[h, i] a[h, cls, i]               of the layer before, or summed up
    stay    = the tokens with n S[i] >= theta; prefix tokens

From the paper (arXiv 2209.13802).  Its code compares S itself, whose size is that of 1 / n: thresholds
here are in that unit, n being all tokens of the picture, and serve any resolution.  One picture keeps as
many as its scores say; the pictures of a batch keep as many as they do in the mean, each its best, as in
the paper's code.  Ours, since the paper classifies: who has left keeps its last value, or is completed.
"""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsight.completions.linear import Regression, normalised
from sparsight.methods.asvit.budget import Threshold, cost_of, share_of
from sparsight.methods.parted import PartedBlock
from sparsight.methods.reduced import CARRY, Reduced, map_name
from sparsight.ops.partition import all_kept, in_order, others, take, top
from sparsight.scores.attention import by_class_and_heads
from sparsight.scores.view import View


class ThresholdBlock(PartedBlock):
    """A block from the first that is looked at; a stage's tensors are its threshold and the map."""

    def before(self, x: Tensor, state: Reduced, host: dict[str, Any]) -> Reduced:
        """In a stage, those below the threshold leave."""
        if (stay := self.above(x, state)) is None:
            return state
        own = stay[:, self._sparsight.prefix :] - self._sparsight.prefix
        notes = {layer: take(note, own) for layer, note in state.notes.items()}
        return replace(self.staying(x, state, stay), notes=notes)

    @torch.no_grad()  # a ranking has no gradient
    def above(self, x: Tensor, state: Reduced) -> Tensor | None:
        """Those of the tokens there that stay, in their own order; None if all do."""
        site, threshold = self._sparsight, self.tensor("threshold")
        if threshold is None:
            return None
        score, there = self.noted_score(x, state), state.rows.shape[1]
        staying = (score >= threshold).sum(1).float().mean().round().item()
        count = site.prefix + max(1, int(staying))
        if all_kept(count, there):
            return None
        whole = torch.cat([score.new_zeros(len(score), site.prefix), score], 1)
        return in_order(top(whole, count, site.prefix), there)

    def noted_score(self, x: Tensor, state: Reduced) -> Tensor:
        """S (b, p) of the patch tokens there, times the number of all tokens."""
        return state.notes[self._sparsight.layer - 1][:, :, 0] * x.shape[1]

    def inside(
        self, x: Tensor, tokens: Tensor, state: Reduced, host: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Reduced]:
        """Nobody leaves here; what the stages ask for is noted."""
        tokens, seen = self.attend(tokens, state, host)
        site = self._sparsight
        if site.config.notes(site.layer):
            with torch.no_grad():
                view = View(tokens, tokens, site.prefix, lambda: seen[:2], heads=lambda: seen.out)
                note = by_class_and_heads(view)[:, site.prefix :, None]
            if site.config.scores == "accumulated":
                note = sum(state.notes.values(), note)
            state = replace(state, notes={site.layer: note})
        return x, site.family.parts.mlp(self, tokens), state

    def completed_layers(self) -> tuple[int, ...]:
        """The last layer, where something is completed."""
        site = self._sparsight
        is_stage = site.layer in site.config.named_stages
        return (site.depth - 1,) if is_stage and site.config.completion == "map" else ()

    def fit(
        self, x: Tensor, host: dict[str, Any], wanted: dict[int, Tensor]
    ) -> Generator[Any, Any, dict[str, Tensor]]:
        """The threshold of a stage, and the map from who leaves to the dense results in `wanted`."""
        state: Reduced | None = getattr(x, CARRY, None)
        if state is None:  # all of so few tokens stay
            return {}
        site, n, cost = self._sparsight, x.shape[1], cost_of(self, self._sparsight.family)
        stages, score = site.config.named_stages, self.noted_score(x, state)[0]
        rho = share_of(cost, site.depth, stages, site.config.budget, n, site.prefix)
        planned = site.prefix + rho ** (1 + stages.index(site.layer)) * (n - site.prefix)
        found = {"threshold": (yield Threshold(score, site.prefix, cost, cost(planned)))}
        self.set_tensors(found)
        stay = self.above(x, state)
        for layer in self.completed_layers():
            everyone = torch.arange(state.rows.shape[1], device=x.device)[None]
            rest = others(everyone if stay is None else stay, state.rows.shape[1])
            rows = state.rows.gather(1, rest)
            leaving = take(x, rows)
            added = take(wanted[layer], rows) - leaving
            read = normalised(leaving).flatten(0, 1)
            found[map_name(layer)] = yield Regression(read, added.flatten(0, 1))
        return found
