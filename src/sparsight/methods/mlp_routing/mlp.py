"""An MLP module that only the tokens of the highest score go through.

    y[top] = MLP(h[top]),   y = [h, 1] W or 0 for all others;   top = topk(score(h))

h is what the MLP reads, tokens that the block has normalised.  Tokens that do not stand out are many and
alike, and the MLP of such is close to linear.  With a bound, top = the tokens whose predicted error is
not below it.
"""

import math
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from sparsight.completions.linear import Quantile, Regression, fit_error, mapped
from sparsight.inplace import Change
from sparsight.methods.bounds import TOKENS_A_STEP, at_least, needed
from sparsight.methods.groups import Places, alike, each, of_pictures
from sparsight.methods.site import Site
from sparsight.ops.partition import all_kept, others, put, take, top
from sparsight.scores import SCORES
from sparsight.scores.view import View


class RoutedMLP(Change):
    """Runs the host's MLP on some of the tokens; its tensors are the score's and the map."""

    _sparsight: Site

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The host's result; dense below `min_tokens` and where all tokens go through."""
        site, (x, host) = self._sparsight, self.bound(args, kwargs)
        h = x.flatten(1, -2)
        n = h.shape[1]
        bounded = site.config.bound is not None
        if site.is_small(n) if bounded else all_kept(site.kept(n, site.config.kept_at(site.layer)), n):
            return self.dense(x, **host)
        score = self.scored(h)

        def some(places: Places, count: int) -> Any:
            """Pictures in which as many tokens go through."""
            own, ranked = of_pictures(h, places), of_pictures(score, places)
            if bounded:
                least = at_least(0, n - site.prefix, TOKENS_A_STEP, site.prefix)
                site.note(count, len(own), n, least)
            if all_kept(count, n):
                return self.dense(of_pictures(x, places), **host).flatten(1, -2)
            return self.routed(own, top(ranked, count, site.prefix), host)

        return each(self, self.counts(score), some).view(x.shape)

    def routed(self, h: Tensor, chosen: Tensor, host: dict[str, Any]) -> Tensor:
        """The result (b, n, c) where those `chosen` (b, k) go through."""
        table, through = self.tensor("map"), self.dense(take(h, chosen), **host)
        rest = torch.zeros_like(h, dtype=through.dtype) if table is None else mapped(h, table)
        return put(rest, chosen, through)

    @torch.no_grad()  # a ranking has no gradient
    def scored(self, h: Tensor) -> Tensor:
        """The score (b, n) of every token."""
        score = SCORES[self._sparsight.config.score]
        fitted = {name: self.tensor(name) for name in score.tensors(h.shape[2])}
        return score(View(h, h, self._sparsight.prefix, tensors=fitted))

    def counts(self, score: Tensor) -> list[tuple[Places, int]]:
        """How many tokens go through, of those with this score (b, n), and in which pictures."""
        site, n = self._sparsight, score.shape[1]
        if (bound := site.config.bound) is None:
            return [(None, site.kept(n, site.config.kept_at(site.layer)))]
        least = self.tensor("bound") if bound == "calibrated" else 2 * math.log(bound)
        assert least is not None  # checked before the plan was applied
        wanted = needed(score[:, site.prefix :], least, TOKENS_A_STEP, site.prefix)
        return alike(wanted, score.device)

    def fit(self, x: Any, host: dict[str, Any], wanted: Any) -> Generator[Any, Any, dict[str, Tensor]]:
        """The map from tokens that skip the MLP, and the score from the error it would leave on all."""
        site, h = self._sparsight, x.flatten(1, -2)
        full, found = self.dense(h, **host), dict[str, Tensor]()
        if site.config.score == "map-error":
            bounded = site.config.bound is not None
            size = full.square().mean((1, 2)).view(-1, 1) if bounded else 1.0  # of what the MLP gives
            found["error"] = yield from fit_error(h, full, size)
            self.set_tensors(found)
        score = self.scored(h)
        if site.config.bound == "calibrated":
            share = site.kept(h.shape[1], site.config.kept_at(site.layer)) / h.shape[1]
            patches = score[:, site.prefix :].flatten()
            found["bound"] = yield Quantile(patches, share * len(patches))
            self.set_tensors(found)
        if site.config.completion == "map":
            ((_, count),) = self.counts(score)  # of one picture
            rest = others(top(score, count, site.prefix), h.shape[1])
            found["map"] = yield Regression(take(h, rest).flatten(0, 1), take(full, rest).flatten(0, 1))
        return found
