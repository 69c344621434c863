"""What is found of a picture does not depend on the other pictures of its batch."""

import pytest
import torch

from sparsight.ops import (
    attention,
    contribution,
    diversity,
    dynamics,
    fidelity,
    grids,
    merging,
    partition,
    statistics,
    transport,
    windows,
)

GRID, N = (5, 7), 5 * 7 + 1


def drawn(*shape, seed=0):
    """Pictures of a batch are of other sizes: a figure of all of them at once is none of one."""
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return made * torch.tensor([1.0, 30.0, 0.1]).view(3, *(1,) * (len(shape) - 1))


X, Y, SCORE, Q = drawn(3, N, 6), drawn(3, N, 6, seed=1), drawn(3, N), drawn(3, 2, N, 8)
M, WEIGHTS = SCORE.abs(), drawn(3, N, seed=2).abs()
ORDER = SCORE.argsort(1)
PATCHES = X[:, 1:]
FIRST = torch.tensor([3, 30, 11])
CENTRES = torch.tensor([[3, 30], [0, 11], [7, 8]])
PROJECTION = torch.randn(5, 16, generator=torch.Generator().manual_seed(3))
TABLE = windows.window_table(GRID, (2, 4), (0, 0), False)


def peaks(x):
    return merging.density_peaks(x, GRID, 2, 3)


# A function of tensors whose first size is the batch, and those
CALLS = {
    "sparse_attention": (lambda q, top: attention.sparse_attention(q, q, q, top, 5, 9), Q, ORDER),
    "contribution": (lambda q: contribution.contribution(q, q, q, PROJECTION), Q),
    "contribution_bound": (lambda q: contribution.contribution_bound(q, q, q, PROJECTION), Q),
    "spread": (lambda x, first: diversity.spread(x, first, 9, 2), X, FIRST),
    "token_statistics": (lambda q: dynamics.token_statistics(q, q, 1), Q),
    "sampled_statistics": (lambda q: dynamics.sampled_statistics(q, q, 1, 8), Q),
    "relative_error": (fidelity.relative_error, X, Y, WEIGHTS),
    "salience": (lambda x: fidelity.salience(x, 1), X),
    "cosine": (fidelity.cosine, X, Y),
    "surroundings": (lambda x: grids.surroundings(x, GRID, (3, 4)), PATCHES),
    "regrid": (lambda x: grids.regrid(x, 1, GRID, (3, 4)), X),
    "means": (lambda x, order, w: merging.means(x, order % 4, 4, w), X, ORDER, WEIGHTS),
    "density_peaks": (lambda x: peaks(x).score, PATCHES),
    "assigned": (lambda x, c: merging.assigned(x, peaks(x), c), PATCHES, CENTRES),
    "nearest_of": (merging.nearest_of, PATCHES, CENTRES),
    "mutual_pairs": (merging.mutual_pairs, X, SCORE > 0),
    "top": (lambda score: partition.top(score, 5, 2), SCORE),
    "with_stride": (lambda score: partition.with_stride(score, 15, 1, 4), SCORE),
    "rank": (lambda score: partition.rank(score, 2), SCORE),
    "others": (lambda order: partition.others(order[:, :9], N), ORDER),
    "take": (partition.take, X, ORDER),
    "put": (partition.put, X, ORDER, Y),
    "take_heads": (partition.take_heads, Q, ORDER),
    "average_attention": (lambda q: statistics.average_attention(q, q), Q),
    "sparsity_indicator": (statistics.sparsity_indicator, M),
    "top_set": (lambda score: statistics.top_set(score, 5), SCORE),
    "top_share": (lambda m: statistics.top_share(m, 0.2), M),
    "recall": (lambda score, m: statistics.recall(score, m, 0.3, 0.2), SCORE, WEIGHTS),
    "importance": (transport.importance, X, Y),
    "window_strengths": (lambda m: windows.window_strengths(m[:, 1:], TABLE), M),
    "rank_windows": (windows.rank_windows, SCORE),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_batch_is_its_pictures_one_by_one(name):
    function, *batch = CALLS[name]
    one_by_one = [function(*(x[i : i + 1] for x in batch)) for i in range(3)]
    wanted = [torch.cat(part) for part in zip(*map(parts, one_by_one), strict=True)]
    for got, want in zip(parts(function(*batch)), wanted, strict=True):
        # Products of other shapes may be summed in another order.
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def parts(found):
    return found if isinstance(found, tuple) else (found,)
