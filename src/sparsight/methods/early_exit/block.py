"""A block before which tokens may exit; those that are left go through the host's own block.

    stay = the top of score(x), after each layer of `after`; prefix tokens always
    x_T = x + [n, 1] W_T   for who has left, in the results of the last layer and of each tap T

With a bound, stay = the tokens whose predicted error is not below it.  Counts go in steps, and pictures
of a batch that keep as many run together.
"""

import math
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from sparsight.completions.linear import Quantile, Regression, fit_error, normalised
from sparsight.methods.bounds import TOKENS_A_STEP, at_least, needed
from sparsight.methods.groups import Groups, Places, alike, of_pictures
from sparsight.methods.reduced import CARRY, Carried, Reduced, ReducingBlock, map_name
from sparsight.ops.partition import all_kept, in_order, others, take, with_stride
from sparsight.scores import SCORES
from sparsight.scores.view import View


class ExitBlock(ReducingBlock):
    """Runs the host's block on who is left; its tensors are the score's and the maps."""

    def idle(self, tokens: int) -> bool:
        """Whether all stay to the end."""
        config = self._sparsight.config
        last = self._sparsight.kept(tokens, config.kept_after(config.exits[-1]))
        return config.bound is None and all_kept(last, tokens)

    def before(self, x: Tensor, state: Reduced, host: dict[str, Any]) -> Carried:
        """After a layer of `after`, those of the lowest score leave."""
        config, layer = self._sparsight.config, self._sparsight.layer
        if layer - 1 not in config.exits:
            return state
        with torch.no_grad():  # a ranking has no gradient
            score = self.scored(take(x, state.rows), state, host, x.shape[1])
            groups = self.counts(score, x.shape[1])
        parts = [
            (places, self.left(of_pictures(x, places), state.of(places), of_pictures(score, places), n))
            for places, n in groups
        ]
        if parts[0][0] is None:
            return parts[0][1]
        return Groups(tuple((places, own) for places, own in parts if places is not None))

    def left(self, x: Tensor, state: Reduced, score: Tensor, count: int) -> Reduced:
        """When all but `count` of the tokens with this score (b, k) have left."""
        if all_kept(count, score.shape[1]):
            return state
        with torch.no_grad():
            stay = in_order(self.staying_of(score, count), score.shape[1])
        return self.staying(x, state, stay)

    def staying_of(self, score: Tensor, count: int) -> Tensor:
        """`count` of the tokens with this score."""
        return with_stride(score, count, self._sparsight.prefix, self._sparsight.config.recover)

    def among(self, tokens: int) -> int:
        """How many of all tokens go on by their share, whatever their score."""
        return self._sparsight.kept(tokens, self._sparsight.config.kept_after(self._sparsight.layer - 1))

    def counts(self, score: Tensor, tokens: int) -> list[tuple[Places, int]]:
        """How many of the tokens with this score (b, k) go on, and in which pictures."""
        config, prefix, exit_ = self._sparsight.config, self._sparsight.prefix, self._sparsight.layer - 1
        if config.bound is None:
            return [(None, self.among(tokens))]
        if (bound := self.tensor("bound")) is None:
            bound = score.new_tensor(2 * math.log(config.bound[config.exits.index(exit_)]))
        return alike(needed(score[:, prefix:], bound, TOKENS_A_STEP, prefix), score.device)

    def least(self, tokens: int) -> int:
        """One step, and the prefix."""
        prefix = self._sparsight.prefix
        return at_least(0, tokens - prefix, TOKENS_A_STEP, prefix)

    def scored(self, tokens: Tensor, state: Reduced, host: dict[str, Any], whole: int) -> Tensor:
        """The score (b, k) of the tokens there, of `whole`; attention is that of the layer to come."""
        site, score = self._sparsight, SCORES[self._sparsight.config.score]
        parts, tables = site.family.parts, self.tables(host, state.rows)
        attention = parts.attention(self)
        made: list[tuple[Tensor, Tensor, Tensor]] = []  # at most once

        def qkv() -> tuple[Tensor, Tensor, Tensor]:
            if not made:
                q, k, v = parts.qkv(attention, parts.norm(self, tokens), **tables)
                made.append((q, k, v))
            return made[0]

        view = View(
            tokens, normalised(tokens), site.prefix, lambda: qkv()[:2], site.config.sample_every,
            {name: self.tensor(name) for name in score.tensors(tokens.shape[2])},
            count=min(tokens.shape[1], self.among(whole)),
            values=lambda: qkv()[2], projection=lambda: site.output_weight(attention),
        )  # fmt: skip
        return score(view)

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
        score = self.scored(tokens, state, host, n)
        if site.config.bound == "calibrated":
            # Of those there, which after an earlier exit are as many as each picture needs.
            patches, share = score[:, site.prefix :].flatten(), n / score.shape[1]
            above = site.config.kept_after(site.layer - 1) * share * len(patches)
            found["bound"] = yield Quantile(patches, above)
            self.set_tensors(found)
        ((_, count),) = self.counts(score, n)  # of one picture
        stay = self.staying_of(score, count)
        rest = others(stay, score.shape[1])
        rows, leaving = state.rows.gather(1, rest), take(tokens, rest)
        read = normalised(leaving).flatten(0, 1)
        for layer in layers:
            added = take(wanted[layer], rows) - leaving
            found[map_name(layer)] = yield Regression(read, added.flatten(0, 1))
        return found
