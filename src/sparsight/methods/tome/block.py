"""A transformer block that merges its most similar tokens (ToMe, Bolya et al., ICLR 2023).

Written from the paper.  Bipartite soft matching (Sec. 3), between attention and MLP of every block:
1. tokens go to the sets A and B in turn;
2. each token of A is joined to the token of B with the most similar key (cosine; mean over heads);
3. the r strongest joints stay;
4. their tokens are averaged, weighted by how many tokens each stands for;
5. both sets become one again.
Proportional attention (Eq. 1): softmax(Q K^T / sqrt(d) + log s), s = how many tokens each stands for.

Our choice where the paper classifies and needs no dense output: every token gets the value of the one it
was merged into ("un-merging").
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.methods.parted import PartedBlock
from sparsight.methods.reduced import Reduced
from sparsight.ops.partition import take

ROWS_AT_ONCE = 256  # of A against all of B: no matrix of all pairs in memory


class MergingBlock(PartedBlock):
    """A block of ToMe."""

    def after(
        self, x: Tensor, tokens: Tensor, q: Tensor, k: Tensor, state: Reduced
    ) -> tuple[Tensor, Tensor, Reduced]:
        """Merge r tokens, or half of what is left if that is less."""
        prefix, merge_ = self._sparsight.prefix, self._sparsight.config.merge
        r = min(round(merge_ * (x.shape[1] - prefix)), (tokens.shape[1] - prefix) // 2)
        if r == 0:
            return x, tokens, state
        order, target = match(k.mean(1)[:, prefix:])
        return x, *merge(tokens, state, order, target, r, prefix)


def match(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Steps 1 and 2 on the keys (b, n, d) of image tokens, averaged over heads.

    Returns A's tokens, the most similar first, and for each token of A its partner in B; both (b, n_A).
    """
    keys = F.normalize(keys.float(), dim=2)
    a, b = keys[:, ::2], keys[:, 1::2].transpose(1, 2)
    best = [(rows @ b).max(2) for rows in a.split(ROWS_AT_ONCE, dim=1)]
    similarity, target = (torch.cat([part[i] for part in best], 1) for i in (0, 1))
    return similarity.argsort(dim=1, descending=True, stable=True), target


def merge(
    tokens: Tensor, state: Reduced, order: Tensor, target: Tensor, r: int, prefix: int
) -> tuple[Tensor, Reduced]:
    """Steps 3 to 5 on tokens (b, k, c): afterwards prefix, what stays of A, and B, (b, k - r, c)."""
    b, k, _ = tokens.shape
    leaving, staying = order[:, :r], order[:, r:].sort(1).values
    into = target.gather(1, leaving)  # where in B
    places = torch.arange(k, device=tokens.device).expand(b, k)
    in_b = places[:, prefix + 1 :: 2]
    kept = torch.cat([places[:, :prefix], prefix + 2 * staying, in_b], 1)
    first_b = kept.shape[1] - in_b.shape[1]

    size = tokens.new_ones(b, k) if state.size is None else state.size
    gone = prefix + 2 * leaving
    gone_size, new_size = size.gather(1, gone), size.gather(1, kept)
    total = new_size.scatter_add(1, first_b + into, gone_size)
    index = (first_b + into)[:, :, None].expand(-1, -1, tokens.shape[2])
    summed = (take(tokens, kept) * new_size[:, :, None]).scatter_add(
        1, index, take(tokens, gone) * gone_size[:, :, None]
    )

    now = torch.empty_like(places).scatter_(1, kept, places[:, : kept.shape[1]].contiguous())
    now = now.scatter(1, gone, first_b + into)
    group = now if state.group is None else now.gather(1, state.group)
    return summed / total[:, :, None], Reduced(state.rows.gather(1, kept), group, total)
