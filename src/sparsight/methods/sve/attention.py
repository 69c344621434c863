"""An attention module with SVE's sparse attention, in place of the dense one.

    top = topk(m)                                   the ranked tokens, prefix tokens always in
    O = sdpa(Q, K[top], V[top])                     every query sees the kept keys
    O[top] = sdpa(Q[top], K, V)                     the kept queries see everything      (Eq. 3-9)
    y = proj(O) + [h, 1] W                          the last term with completion, for the other queries

The host's own forward runs; what it hands to `scaled_dot_product_attention` is caught (`Attending`), so
projections, norms, rotary tables, gates and the output projection are the host's.  Tokens stay in their
own order, and the layers of a reuse group share `top`.
"""

import torch
from torch import Tensor

from sparsight.methods.caught import CaughtAttention
from sparsight.methods.sve.attending import Attending
from sparsight.ops.partition import all_kept, top
from sparsight.scores import SCORES
from sparsight.scores.view import View


class SparseAttention(CaughtAttention):
    """Runs the host's attention sparsely; its tensors are the score's and the map."""

    CALLS = Attending

    def idle(self, tokens: int) -> bool:
        """Whether with so many tokens nothing is left out; then a group is told."""
        if not isinstance(tokens, int) or self.pays(tokens, self.counts(tokens)):
            return False
        if self._sparsight.shared is not None and not self.follows:
            self._sparsight.shared.give(((None, tokens),))
        return True

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

    def ranked(self, h: Tensor, q: Tensor, k: Tensor, v: Tensor, counts: tuple[int, int]) -> Tensor:
        """The tokens that are kept for anything, highest score first; (b, max(nq, nk))."""
        queries, keys = self._sparsight.config.kept_at(self._sparsight.layer)
        with torch.no_grad():  # a ranking has no gradient
            return top(self.scored(h, q, k, v), counts[keys > queries], self._sparsight.prefix)

    def scored(self, h: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The score of every token, (b, n)."""
        site, score = self._sparsight, SCORES[self._sparsight.config.score]
        fitted = {name: self.tensor(name) for name in score.tensors(h.shape[2])}
        grid = site.grid.of(h.shape[1] - site.prefix, site.layer) if site.grid is not None else None
        view = View(
            h, h, site.prefix, lambda: (q, k), site.config.sample_every, fitted,
            values=lambda: v, projection=lambda: site.output_weight(self), grid=grid,
        )  # fmt: skip
        return score(view)
