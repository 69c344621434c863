"""An attention module with SVE's sparse attention, in place of the dense one.

    top = topk(m)                                   the ranked tokens, prefix tokens always in
    O = sdpa(Q, K[top], V[top])                     every query sees the kept keys
    O[top] = sdpa(Q[top], K, V)                     the kept queries see everything      (Eq. 3-9)
    y = proj(O) + [h, 1] W                          the last term with completion, for the other queries

The host's own forward runs; what it hands to `scaled_dot_product_attention` is caught (`Attending`), so
projections, norms, rotary tables, gates and the output projection are the host's.  Tokens stay in their
own order, and the layers of a reuse group share `top`.
"""

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from sparsight.completions.linear import Regression, mapped
from sparsight.families.calls import Caught, wants_maps, with_settings
from sparsight.inplace import Change
from sparsight.methods.site import Site
from sparsight.methods.sve.attending import Attending
from sparsight.ops.partition import all_kept, others, put, put_, take, top
from sparsight.scores import SCORES
from sparsight.scores.view import View


class SparseAttention(Change):
    """Runs the host's attention sparsely; its tensors are the score's and the map."""

    _sparsight: Site

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The host's result; dense where that pays more, where all is kept, and under a mask.

        Raises SparsightError if attention maps are asked for, since a sparse layer has none.
        """
        site, (x, host) = self._sparsight, self.bound(args, kwargs)
        tokens = x.flatten(1, -2).shape[1] if x.ndim > 2 else x.shape[0]  # a picture's, at most
        if isinstance(tokens, int) and not self.pays(tokens, self.counts(tokens)):
            if site.shared is not None and not self.follows:
                site.shared.give(((None, tokens),))
            return self.dense(x, **host)
        result, run = self.attended(x, host)
        table = self.tensor("map")
        if table is None or not run.skipped:
            return result
        y = result[0] if isinstance(result, tuple) else result
        rows, seeing = x.reshape(1, -1, x.shape[-1]), run.seeing()
        whole = y.reshape(1, -1, y.shape[-1]) + mapped(rows, table)
        # Those have seen everything: nothing is missing.
        own = take(y.reshape(whole.shape), seeing)
        whole = (put if whole.requires_grad else put_)(whole, seeing, own).view(y.shape)
        return (whole, *result[1:]) if isinstance(result, tuple) else whole

    def attended(self, x: Any, host: dict[str, Any]) -> tuple[Any, Attending]:
        """The host's result with sparse attention, and what was done for it."""
        run = Attending(self, x, bool(host.get("output_attentions")) or wants_maps(self))
        with with_settings(self, self._sparsight.settings), Caught(run, self):
            result = self.dense(x, **host)
        run.finished()
        return result, run

    @property
    def follows(self) -> bool:
        """Whether it uses the ranking of a layer before."""
        return self._sparsight.layer in self._sparsight.config.followers()

    def counts(self, tokens: int) -> tuple[int, int]:
        """nq and nk for so many tokens."""
        site = self._sparsight
        queries, keys = site.config.kept_at(site.layer)
        kept = site.kept(tokens, queries)
        return kept, kept if keys == queries else site.kept(tokens, keys)

    def pays(self, tokens: int, counts: tuple[int, int]) -> bool:
        """Whether with these counts anything is left out of so many tokens."""
        return not any(all_kept(count, tokens) for count in counts)

    def ranked(self, h: Tensor, q: Tensor, k: Tensor, counts: tuple[int, int]) -> Tensor:
        """The tokens that are kept for anything, highest score first; (b, max(nq, nk))."""
        queries, keys = self._sparsight.config.kept_at(self._sparsight.layer)
        with torch.no_grad():  # a ranking has no gradient
            return top(self.scored(h, q, k), counts[keys > queries], self._sparsight.prefix)

    def scored(self, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """The score of every token, (b, n)."""
        config, score = self._sparsight.config, SCORES[self._sparsight.config.score]
        fitted = {name: self.tensor(name) for name in score.tensors(h.shape[2])}
        return score(View(h, h, self._sparsight.prefix, lambda: (q, k), config.sample_every, fitted))

    def fit(
        self, x: Any, host: dict[str, Any], wanted: Any
    ) -> Generator[Regression, Tensor, dict[str, Tensor]]:
        """The map from what one picture's sparse queries miss: dense less sparse, on this stream."""
        found, run = self.attended(x, host)
        dense, few = (y[0] if isinstance(y, tuple) else y for y in (self.dense(x, **host), found))
        h, missing = x.reshape(1, -1, x.shape[-1]), (dense - few).reshape(1, -1, dense.shape[-1])
        rest = others(run.seeing(), missing.shape[1])
        table = yield Regression(take(h, rest).flatten(0, 1), take(missing, rest).flatten(0, 1))
        return {"map": table}
