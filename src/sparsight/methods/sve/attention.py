"""An attention module with SVE's sparse attention, in place of the dense one.

    top = topk(m)                                   the ranked tokens, prefix tokens always in
    O = sdpa(Q, K[top], V[top])                     every query sees the kept keys
    O[top] = sdpa(Q[top], K, V)                     the kept queries see everything      (Eq. 3-9)
    y = proj(O) + [h, 1] W                          the last term with completion, for the other queries

Tokens stay in their own order, so the block around it, its norms, MLP and hooks see them as ever.  The
layers of a reuse group share `top`.  Tokens are rows (b, n, c) in here, whether the host has them so
or as (b, height, width, c).
"""

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparsight.completions.linear import Regression, mapped
from sparsight.errors import SparsightError
from sparsight.inplace import Change
from sparsight.methods.site import Site
from sparsight.ops.attention import sparse_attention
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
        family, h = site.family, x.flatten(1, -2)
        n = h.shape[1]
        queries, keys = counts = self.counts(n)
        masked = host.get(family.mask) is not None or host.get("is_causal", False)
        if all_kept(queries, n) or all_kept(keys, n) or masked:
            if site.shared is not None and not self.follows:
                site.shared.give(None, n)
            return self.dense(x, **host)
        if host.get("output_attentions") or family.wants_maps(self):
            raise SparsightError(
                f"layer {site.layer} is sparse and has no attention map: call without "
                "output_attentions, or restore the model first"
            )
        q, k, v = family.parts.qkv(self, h, **self.tables(host))
        ranked = self.ranked(h, q, k, counts)
        out = sparse_attention(q, k, v, ranked, queries, keys)
        y = family.parts.merge(self, out, h)
        if (table := self.tensor("map")) is not None:
            seeing = ranked[:, :queries]  # they have seen everything: nothing is missing
            whole = y + mapped(h, table)
            y = (put if whole.requires_grad else put_)(whole, seeing, take(y, seeing))
        return family.parts.result(y.view(*x.shape[:-1], -1))

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

    def tables(self, host: dict[str, Any]) -> dict[str, Any]:
        """The rotary tables among what the host passed."""
        return {k: host[k] for k in self._sparsight.family.per_token if host.get(k) is not None}

    @torch.no_grad()  # a ranking has no gradient
    def ranked(self, h: Tensor, q: Tensor, k: Tensor, counts: tuple[int, int]) -> Tensor:
        """The tokens that are kept for anything, highest score first; (b, max(nq, nk))."""
        site = self._sparsight
        if self.follows:
            return site.shared.take(h, site.layer)
        queries, keys = site.config.kept_at(site.layer)
        found = top(self.scored(h, q, k), counts[keys > queries], site.prefix)
        if site.shared is not None:
            site.shared.give(found, h.shape[1])
        return found

    def scored(self, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """The score of every token, (b, n)."""
        config, score = self._sparsight.config, SCORES[self._sparsight.config.score]
        fitted = {name: self.tensor(name) for name in score.tensors(h.shape[2])}
        return score(View(h, h, self._sparsight.prefix, lambda: (q, k), config.sample_every, fitted))

    def fit(
        self, x: Any, host: dict[str, Any], wanted: Any
    ) -> Generator[Regression, Tensor, dict[str, Tensor]]:
        """The map from what one picture's sparse queries miss: dense less sparse, on this stream."""
        site, h = self._sparsight, x.flatten(1, -2)
        n, parts = h.shape[1], site.family.parts
        queries, keys = counts = self.counts(n)
        q, k, v = parts.qkv(self, h, **self.tables(host))
        ranked = self.ranked(h, q, k, counts)
        sparse = parts.merge(self, sparse_attention(q, k, v, ranked, queries, keys), h)
        dense = parts.merge(self, scaled_dot_product_attention(q, k, v).transpose(1, 2), h)
        rest = others(ranked[:, :queries], n)
        table = yield Regression(take(h, rest).flatten(0, 1), take(dense - sparse, rest).flatten(0, 1))
        return {"map": table}
