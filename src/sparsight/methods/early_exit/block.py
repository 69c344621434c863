"""A block before which tokens may exit; those that are left go through the host's own block.

    stay = the top of score(x), after each layer of `after`; prefix tokens always
    x_T = x + [n, 1] W_T   for who has left, in the results of the last layer and of each tap T

With a bound, stay = the tokens whose predicted error is not below it.  Pictures of a batch keep as
many as the one that needs most, and counts go in steps.
"""

import math
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from sparsight.completions.linear import Quantile, Regression, fit_error, normalised
from sparsight.methods.bounds import TOKENS_A_STEP, needed
from sparsight.methods.reduced import CARRY, Reduced, ReducingBlock, map_name
from sparsight.ops.partition import all_kept, in_order, others, take, top
from sparsight.scores import SCORES
from sparsight.scores.view import View


class ExitBlock(ReducingBlock):
    """Runs the host's block on who is left; its tensors are the score's and the maps."""

    def idle(self, tokens: int) -> bool:
        """Whether all stay to the end."""
        config = self._sparsight.config
        last = self._sparsight.kept(tokens, config.kept_after(config.exits[-1]))
        return config.bound is None and all_kept(last, tokens)

    def before(self, x: Tensor, state: Reduced, host: dict[str, Any]) -> Reduced:
        """After a layer of `after`, those of the lowest score leave."""
        config, layer = self._sparsight.config, self._sparsight.layer
        if layer - 1 not in config.exits:
            return state
        with torch.no_grad():  # a ranking has no gradient
            score = self.scored(take(x, state.rows), state, host)
            count = self.count(score, x.shape[1])
            if all_kept(count, score.shape[1]):
                return state
            stay = in_order(top(score, count, self._sparsight.prefix), score.shape[1])
        return self.staying(x, state, stay)

    def count(self, score: Tensor, tokens: int) -> int:
        """How many of the tokens with this score (b, k) go on."""
        config, prefix, exit_ = self._sparsight.config, self._sparsight.prefix, self._sparsight.layer - 1
        if config.bound is None:
            return self._sparsight.kept(tokens, config.kept_after(exit_))
        if (bound := self.tensor("bound")) is None:
            bound = score.new_tensor(2 * math.log(config.bound[config.exits.index(exit_)]))
        return needed(score[:, prefix:], bound, TOKENS_A_STEP, prefix)

    def scored(self, tokens: Tensor, state: Reduced, host: dict[str, Any]) -> Tensor:
        """The score (b, k) of the tokens that are there; attention is that of the layer to come."""
        site, score = self._sparsight, SCORES[self._sparsight.config.score]
        parts, tables = site.family.parts, self.tables(host, state.rows)

        def attention() -> tuple[Tensor, Tensor]:
            q, k, _ = parts.qkv(parts.attention(self), parts.norm(self, tokens), **tables)
            return q, k

        fitted = {name: self.tensor(name) for name in score.tensors(tokens.shape[2])}
        every = site.config.sample_every
        return score(View(tokens, normalised(tokens), site.prefix, attention, every, fitted))

    def completed_layers(self) -> tuple[int, ...]:
        """The last layer and the taps to come."""
        site = self._sparsight
        return site.config.taps_of(site.layer - 1, site.depth)

    def fit(
        self, x: Tensor, host: dict[str, Any], wanted: dict[int, Tensor]
    ) -> Generator[Any, Any, dict[str, Tensor]]:
        """The maps, from who leaves to what the dense model makes of them; before that, the score.

        `wanted` has the dense results of the layers by number.
        """
        site, found = self._sparsight, dict[str, Tensor]()
        n, layers = x.shape[1], self.completed_layers()
        state = getattr(x, CARRY, None) or Reduced(torch.arange(n, device=x.device).expand(len(x), n))
        tokens = take(x, state.rows)
        normal = normalised(tokens)
        if site.config.score == "map-error":
            end = take(wanted[layers[-1]], state.rows)[:, site.prefix :]
            size = end.square().mean((1, 2)).view(-1, 1)  # of a picture's dense tokens
            patches, added = normal[:, site.prefix :], end - tokens[:, site.prefix :]
            found["error"] = yield from fit_error(patches, added, size)
            self.set_tensors(found)
        score = self.scored(tokens, state, host)
        if site.config.bound == "calibrated":
            share = site.config.kept_after(site.layer - 1) * n / score.shape[1]
            found["bound"] = yield Quantile(score[:, site.prefix :].flatten(), 1 - share)
            self.set_tensors(found)
        stay = top(score, self.count(score, n), site.prefix)
        rest = others(stay, score.shape[1])
        rows, leaving = state.rows.gather(1, rest), take(tokens, rest)
        read = normalised(leaving).flatten(0, 1)
        for layer in layers:
            added = take(wanted[layer], rows) - leaving
            found[map_name(layer)] = yield Regression(read, added.flatten(0, 1))
        return found
