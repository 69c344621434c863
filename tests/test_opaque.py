"""What compilers and exporters run in place of a loop or a branch: the same as without them."""

import pytest
import torch

from sparsight.ops import contribution, diversity, statistics, transport
from sparsight.ops.partition import kept_count
from sparsight.ops.statistics import lattice_sample


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


Q, X = drawn(2, 3, 70, 8), drawn(2, 30, 6)
OPAQUE = {
    "average_attention": (statistics.average_attention, (Q, Q.flip(2))),
    "contribution": (contribution.contribution, (Q, Q.flip(2), Q + 1, drawn(5, 24))),
    "spread": (diversity.spread, (X, torch.tensor([3, 9]), 11, 2)),
    "importance": (transport.importance, (X, X.flip(1))),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_a_step_that_compilers_do_not_look_into_is_the_function_itself(name):
    function, args = OPAQUE[name]
    step = getattr(torch.ops.sparsight, name).default
    torch.testing.assert_close(step(*args), function(*args), rtol=0, atol=0)
    # What is known of it beforehand, its shape, dtype and that it changes nothing, is so.
    torch.library.opcheck(step, args, test_utils=("test_schema", "test_faketensor"))


class Kept(torch.nn.Module):
    """As many of the tokens as a fraction keeps, and the sample that ranks them."""

    def forward(self, x):
        count = kept_count(x.shape[1], 0.4, 1, least=20)
        return x[:, :count], x.index_select(1, lattice_sample(x.shape[1], 1, 4))


def test_counts_and_samples_of_an_open_size_are_those_of_each_size():
    least, most = 16, 300
    size = torch.export.Dim("n", min=least, max=most)
    example = torch.arange(64.0).view(1, 64, 1)
    graph = torch.export.export(Kept(), (example,), dynamic_shapes={"x": {1: size}}).module()
    # Few tokens, all of them; below and from 96 kept tokens on; the last.
    for n in (least, 19, 20, 63, 64, 240, 299, most):
        x = torch.arange(float(n)).view(1, n, 1)
        for got, wanted in zip(graph(x), Kept()(x), strict=True):
            assert torch.equal(got, wanted)
