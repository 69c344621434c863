"""Functions of tensors make what they need on the device of what they are given, in a dtype they name.

Where the tests run there may be no other device.  So the default is one whose tensors cannot be computed
with together with the processor's: whatever is made without a device shows.  So it is with dtypes.
"""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from test_scores import made

from sparsight.ops import (
    attention,
    contribution,
    diversity,
    dynamics,
    fidelity,
    merging,
    partition,
    patterns,
    segments,
    statistics,
    traced,
    transport,
    windows,
)
from sparsight.ops.grids import regrid, surroundings
from sparsight.scores import SCORES

GRID = (5, 7)
N = 5 * 7 + 1  # of tokens, the first a prefix token


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


X, SCORE, Q = drawn(2, N, 6), drawn(2, N), drawn(2, 3, N, 8)
LONG = drawn(2, 3, 150, 8)  # more queries than are taken at once
ORDER = SCORE.argsort(1)
PATCHES = X[:, 1:]
CENTRES = torch.tensor([[3, 30], [0, 11]])
BLOCKS = torch.block_diag(torch.ones(20, 20), torch.ones(16, 16)).bool()
WEIGHT, POSITIONS = drawn(5, 24), drawn(N - 1, 8)
TABLE = windows.window_table(GRID, (2, 4), (0, 0), False)

CALLS = {
    "sparse_attention": lambda: attention.sparse_attention(Q, Q, Q, ORDER, 5, 9),
    "masked_attention": lambda: attention.masked_attention(Q, Q, Q, ORDER, 5, 9),
    "contribution": lambda: contribution.contribution(LONG, LONG, LONG, WEIGHT),
    "contribution_bound": lambda: contribution.contribution_bound(Q, Q, Q, WEIGHT),
    "spread": lambda: diversity.spread(X, CENTRES[:, 0], 9, 2),
    "token_statistics": lambda: dynamics.token_statistics(Q, Q, 1),
    "sampled_statistics": lambda: dynamics.sampled_statistics(Q, Q, 1, 8),
    "salience": lambda: fidelity.salience(X, 1),
    "surroundings": lambda: surroundings(PATCHES, GRID, (3, 4)),
    "regrid": lambda: regrid(X, 1, GRID, (3, 4)),
    "means": lambda: merging.means(X, ORDER % 4, 4, SCORE.abs()),
    "density_peaks": lambda: merging.density_peaks(PATCHES, GRID, 2, 3),
    "assigned": lambda: merging.assigned(PATCHES, merging.density_peaks(PATCHES, GRID, 1, 3), CENTRES),
    "mutual_pairs": lambda: merging.mutual_pairs(X, SCORE > -1),
    "top": lambda: partition.top(SCORE, 5, 2),
    "with_stride": lambda: partition.with_stride(SCORE, 15, 1, 4),
    "rank": lambda: partition.rank(SCORE, 2),
    "inverse": lambda: partition.inverse(ORDER),
    "others": lambda: partition.others(ORDER[:, :9], N),
    "in_order": lambda: partition.in_order(ORDER[:, :9], N),
    "take": lambda: partition.take(X, ORDER),
    "put": lambda: partition.put(X, ORDER, X),
    "put_": lambda: partition.put_(X.clone(), ORDER, X),
    "take_heads": lambda: partition.take_heads(Q, ORDER),
    "take_positions": lambda: partition.take_positions(POSITIONS, ORDER.sort(1).values, 1),
    "windows": lambda: patterns.windows(*GRID, 2, "cpu").groups,
    "stripes": lambda: patterns.stripes(*GRID, 4, 0.3, "cpu").groups,
    "lattice_ranks": lambda: patterns.lattice_ranks(*GRID, "cpu"),
    "grouped_attention": lambda: patterns.grouped_attention(
        Q, Q, Q, 1, patterns.stripes(*GRID, 4, 0.3, "cpu")
    ),
    "segments_of": lambda: torch.tensor(
        [s[1:] for s in segments.segments_of(BLOCKS, 1, N)], device="cpu"
    ),
    "average_attention": lambda: statistics.average_attention(LONG, LONG),
    # Eighths are the same in any dtype, and a share of whole numbers is of the default one.
    "recall": lambda: statistics.recall(SCORE, SCORE.abs(), 0.5, 8 / N).float(),
    "overlap": lambda: statistics.overlap(SCORE, 0.3),
    "lattice_sample": lambda: statistics.lattice_sample(N, 1, 4, "cpu"),
    "few_of_a_lattice": lambda: statistics.lattice_sample(4, 1, 4, "cpu"),
    "looked_up": lambda: traced.looked_up(7, lambda n: n * n // 8, 2),
    "importance": lambda: transport.importance(X, X.flip(1)),
    "window_strengths": lambda: windows.window_strengths(SCORE[:, 1:].abs(), TABLE),
    "window_rows": lambda: windows.window_rows(PATCHES, TABLE, CENTRES % 6),
}


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


DEFAULTS = {"device": lambda: torch.device("meta"), "dtype": lambda: default_dtype(torch.float16)}


@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("name", CALLS)
def test_what_is_made_on_the_way_does_not_depend_on_defaults(name, default):
    wanted = CALLS[name]()
    with DEFAULTS[default]():
        got = CALLS[name]()
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("name", SCORES)
def test_a_score_does_not_depend_on_defaults(name, default):
    view = made(n=N, count=15)
    shapes = SCORES[name].tensors(view.tokens.shape[2])
    if name == "relevance":  # whose network is of the size of a setting
        shapes = {"inner": (4, 22), "bias": (4,), "outer": (4,)}
    view = replace(view, grid=GRID, tensors={key: drawn(*shape) for key, shape in shapes.items()})
    wanted = SCORES[name](view)
    with DEFAULTS[default]():
        got = SCORES[name](view)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
