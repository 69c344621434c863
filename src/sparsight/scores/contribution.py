"""How much a token's value moves the others: attention, weighted by what the projection makes of it.

    c_j = mean over queries of || sum over heads of a[h, q, j] v[h, j] W_O[h] ||_2      `exact`
    c_j <= sum over heads of (mean over queries of a[h, q, j]) || v[h, j] W_O[h] ||_2   `bound`

The criterion of CAPA (arXiv 2602.00247, Eq. 2), which prunes in language models.  Ours: the queries, the
same sample as in `sampled`.
"""

from jaxtyping import Float
from torch import Tensor

from sparsight.ops.contribution import contribution, contribution_bound
from sparsight.ops.statistics import lattice_sample
from sparsight.scores.view import View


def exact(view: View) -> Float[Tensor, "b n"]:
    """With what heads cancel of one another."""
    return contribution(*_asked(view), view.projection())


def bound(view: View) -> Float[Tensor, "b n"]:
    """As if heads never did: half of the work, since queries are summed up before."""
    return contribution_bound(*_asked(view), view.projection())


def _asked(view: View) -> tuple[Tensor, Tensor, Tensor]:
    q, k = view.attention()
    chosen = lattice_sample(q.shape[2], view.prefix, view.sample_every, q.device)
    return q.index_select(2, chosen), k, view.values()
