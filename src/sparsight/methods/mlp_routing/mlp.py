"""An MLP module that only the tokens of the highest score go through.

    y[top] = MLP(h[top]),   y = [h, 1] W or 0 for all others;   top = topk(score(h))

h is what the MLP reads, tokens that the block has normalised.  Tokens that do not stand out are many and
alike, and the MLP of such is close to linear.
"""

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from sparsight.completions.linear import Regression, fit_error, mapped
from sparsight.inplace import Change
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
        count = site.kept(n, site.config.kept_at(site.layer))
        if all_kept(count, n):
            return self.dense(x, **host)
        chosen, table = self.chosen(h, count), self.tensor("map")
        through = self.dense(take(h, chosen), **host)
        rest = torch.zeros_like(h, dtype=through.dtype) if table is None else mapped(h, table)
        return put(rest, chosen, through).view(x.shape)

    @torch.no_grad()  # a ranking has no gradient
    def chosen(self, h: Tensor, count: int) -> Tensor:
        """The tokens (b, count) that go through."""
        score, prefix = SCORES[self._sparsight.config.score], self._sparsight.prefix
        fitted = {name: self.tensor(name) for name in score.tensors(h.shape[2])}
        return top(score(View(h, h, prefix, tensors=fitted)), count, prefix)

    def fit(
        self, x: Any, host: dict[str, Any], wanted: Any
    ) -> Generator[Regression, Tensor, dict[str, Tensor]]:
        """The map from tokens that skip the MLP, and the score from the error it would leave on all."""
        site, h = self._sparsight, x.flatten(1, -2)
        full, found = self.dense(h, **host), dict[str, Tensor]()
        if site.config.score == "map-error":
            found["error"] = yield from fit_error(h, full)
            self.set_tensors(found)
        if site.config.completion == "map":
            count = site.kept(h.shape[1], site.config.kept_at(site.layer))
            rest = others(self.chosen(h, count), h.shape[1])
            found["map"] = yield Regression(take(h, rest).flatten(0, 1), take(full, rest).flatten(0, 1))
        return found
