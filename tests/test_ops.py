"""The tensor functions against their definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.ops import fidelity, partition, statistics
from sparsight.ops.attention import masked_attention, sparse_attention


def random_qkv(b, h, n, d, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(b, h, n, d, generator=generator).to(dtype) for _ in range(3)]


def full_map(q, k):
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)


@settings(deadline=None, max_examples=40)
@given(
    b=st.integers(1, 3), h=st.integers(1, 3), n=st.integers(2, 150),
    d=st.sampled_from([8, 20, 32]), prefix=st.sampled_from([0, 1, 5]),
    queries=st.floats(0.01, 1), keys=st.floats(0.01, 1), seed=st.integers(0, 10_000),
)  # fmt: skip
def test_two_calls_equal_the_mask(b, h, n, d, prefix, queries, keys, seed):
    prefix = min(prefix, n - 1)
    q, k, v = random_qkv(b, h, n, d, seed)
    order = partition.rank(torch.rand(b, n), prefix)
    nq, nk = (partition.kept_count(n, f, prefix) for f in (queries, keys))
    wanted = masked_attention(q, k, v, order, nq, nk)
    got = sparse_attention(q, k, v, order[:, : max(nq, nk)], nq, nk)
    # Sums of at most 150 float32 products of size one: rounding stays well under 1e-5.
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_two_calls_in_half_precision(dtype):
    q, k, v = random_qkv(2, 3, 77, 16, dtype=dtype)
    order = partition.rank(torch.rand(2, 77), 1)
    wanted = masked_attention(q.double(), k.double(), v.double(), order, 10, 20)
    got = sparse_attention(q, k, v, order[:, :20], 10, 20)
    # An output is a mean of values of size 2, rounded on the way a few times to the dtype's precision.
    assert (got - wanted).abs().max() < 16 * torch.finfo(dtype).eps


@given(n=st.integers(1, 20_000), prefix=st.integers(0, 5), fraction=st.floats(0.001, 1))
def test_kept_count(n, prefix, fraction):
    count = partition.kept_count(n, fraction, prefix)
    assert min(n, prefix + 1) <= count <= n
    if fraction == 1:
        assert count == n
    elif prefix + 1 < count < n:
        # Rounded to a whole number below 96, to the nearest multiple of 64 above; 768 instead of 704.
        assert abs(count - n * fraction) <= (0.5 if count < 96 else 96.5 if count == 768 else 32.5)
        assert count != 704
        assert count < 96 or count % 64 == 0


def test_rank_puts_prefix_first_and_sorts_the_rest():
    score = torch.tensor([[0.1, 0.2, 0.9, 0.5, 0.7], [0.0, 5.0, 0.3, 0.3, 0.4]])
    assert partition.rank(score, 2).tolist() == [[0, 1, 2, 4, 3], [0, 1, 4, 2, 3]]
    assert partition.rank(score, 0).tolist() == [[2, 4, 3, 1, 0], [1, 4, 2, 3, 0]]


@given(n=st.integers(6, 200), prefix=st.sampled_from([0, 1, 5]), seed=st.integers(0, 10_000))
def test_top_is_the_head_of_the_rank_and_others_are_the_rest(n, prefix, seed):
    generator = torch.Generator().manual_seed(seed)
    # Without ties, which topk and a stable sort may break in other ways.
    score = torch.stack([torch.randperm(n, generator=generator) for _ in range(2)]).float()
    for count in (prefix + 1, (n + prefix) // 2, n):
        chosen = partition.top(score, count, prefix)
        ranked = partition.rank(score, prefix)[:, :count]
        assert torch.equal(chosen[:, prefix:], ranked[:, prefix:])
        assert torch.equal(chosen[:, :prefix].sort(1).values, ranked[:, :prefix])
        rest = partition.others(chosen, n)
        for image in range(2):
            wanted = sorted(set(range(n)) - set(chosen[image].tolist()))
            assert rest[image].tolist() == wanted


@given(b=st.integers(1, 3), n=st.integers(1, 40), c=st.integers(1, 5))
def test_take_and_inverse(b, n, c):
    x, order = torch.randn(b, n, c), torch.rand(b, n).argsort(1)
    taken = partition.take(x, order)
    assert torch.equal(taken, x.gather(1, order[..., None].expand(-1, -1, c)))
    assert torch.equal(partition.take(taken, partition.inverse(order)), x)
    kept = order[:, : (n + 1) // 2]
    new = partition.put(x, kept, partition.take(x, kept) + 1)
    moved = torch.zeros(b, n, 1).scatter(1, kept[..., None], 1.0)
    assert torch.equal(new, x + moved)


@pytest.mark.parametrize("shape", [(6, 4), (3, 6, 4), (2, 1, 6, 4), (2, 3, 6, 4)])
def test_take_positions_follows_the_tokens(shape):
    table, prefix = torch.randn(shape), 2
    order = partition.rank(torch.rand(2, 8), prefix)
    got = partition.take_positions(table, order, prefix)
    for image in range(2):
        for place, token in enumerate((order[image, prefix:] - prefix).tolist()):
            rows = table[image] if len(shape) == 4 else table
            assert torch.equal(got[image, :, place], rows.reshape(-1, 6, 4)[:, token])


@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
def test_average_attention_is_the_mean_of_the_full_map(n):
    q, k, _ = random_qkv(2, 3, n, 16)
    m = statistics.average_attention(q, k)
    torch.testing.assert_close(m, full_map(q, k).mean(dim=(1, 2)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(m.sum(1), torch.ones(2))


def test_average_attention_takes_what_layers_give_it():
    # Views of one fused projection, in training, fewer queries than keys, other dtypes.
    qkv = torch.randn(2, 150, 3, 2, 8, requires_grad=True).permute(2, 0, 3, 1, 4)
    q, k, _ = qkv
    whole = full_map(q, k)
    for queries in (65, 128, 150):
        m = statistics.average_attention(q[:, :, :queries], k)
        torch.testing.assert_close(m, whole[:, :, :queries].mean(dim=(1, 2)), atol=1e-6, rtol=1e-5)
    for dtype, error in ((torch.float64, 1e-6), (torch.bfloat16, 2e-3)):  # m is float32; scores are not
        m = statistics.average_attention(q.to(dtype), k.to(dtype))
        assert m.dtype == torch.float32
        torch.testing.assert_close(m, whole.mean(dim=(1, 2)), atol=error, rtol=0)


def test_average_attention_never_builds_the_map():
    from sparsight.stages.timing import peak_memory_mb

    q, k, _ = random_qkv(1, 2, 4000, 8)
    peak = peak_memory_mb(lambda: statistics.average_attention(q, k), torch.device("cpu"))
    # A chunk of 64 rows is 2 MB and exists once; q and k are copied once, 0.3 MB each.
    # The map is 128 MB.
    assert peak < 3


def test_sparsity_indicator():
    m = torch.tensor([[1.0, 0.5, 0.2, 0.09, 0.01], [1.0, 1.0, 1.0, 1.0, 1.0]])
    assert statistics.sparsity_indicator(m).tolist() == pytest.approx([0.4, 0.0])
    assert statistics.sparsity_indicator(m, c=2.0).tolist() == pytest.approx([0.6, 0.0])


def test_recall_and_overlap():
    m = torch.arange(16.0)[None]
    score = m.clone()
    score[0, 15] = -1  # one of the true top four is missed
    assert statistics.recall(score, m, 0.25, 0.25).item() == 0.75
    assert statistics.recall(score, m, 1.0, 0.25).item() == 1.0
    assert statistics.recall(m, m, 0.25, 0.25).item() == 1.0
    both = statistics.overlap(torch.cat([m, -m, score]), 0.25)
    assert both.tolist() == [[1, 0, 0.75], [0, 1, 0], [0.75, 0, 1]]
    assert statistics.top_share(m, 0.25).item() == pytest.approx((15 + 14 + 13 + 12) / 120)


def test_the_smallest_share_is_one_token():
    m = torch.tensor([[1.0, 2.0, 5.0, 3.0]])
    assert statistics.top_share(m, 1e-6).item() == pytest.approx(5 / 11)
    assert statistics.recall(m, m, 1e-6, 1e-6).item() == 1
    assert statistics.recall(torch.tensor([[1.0, 2.0, 3.0, 5.0]]), m, 1e-6, 1e-6).item() == 0
    assert statistics.overlap(torch.cat([m, -m, m + 1]), 1e-6).tolist() == [
        [1, 0, 1],
        [0, 1, 0],
        [1, 0, 1],
    ]


@given(
    width=st.integers(8, 130), height=st.integers(8, 130), every=st.sampled_from([8, 16, 32]),
    prefix=st.sampled_from([0, 1, 5]),
)  # fmt: skip
def test_lattice_sample_is_even_over_the_image(width, height, every, prefix):
    chosen = statistics.lattice_sample(width * height + prefix, prefix, every) - prefix
    count = len(chosen)
    assert count == width * height // every
    assert chosen.unique().numel() == count
    assert chosen.min() >= 0
    assert chosen.max() < width * height
    # Half a picture gets its share up to 2 / sqrt(n), four standard deviations of a random sample; a
    # stride that divides the width would be off by a half.
    left = ((chosen % width) < width // 2).sum().item() / count
    top = ((chosen // width) < height // 2).sum().item() / count
    slack = 2 / math.sqrt(count)
    assert abs(left - (width // 2) / width) <= slack
    assert abs(top - (height // 2) / height) <= slack


def test_fidelity():
    dense = torch.randn(2, 5, 4)
    changed = dense.clone()
    changed[1] *= 1.5
    assert fidelity.relative_error(changed, dense).tolist() == pytest.approx([0, 0.5])
    assert fidelity.cosine(changed, dense).tolist() == pytest.approx([1, 1])
    assert fidelity.cosine(-dense, dense).tolist() == pytest.approx([-1, -1])


def test_weighted_error_equals_its_definition():
    dense, changed = torch.randn(2, 7, 4), torch.randn(2, 7, 4)
    weights = torch.rand(2, 7)
    for i in range(2):
        moved = sum(weights[i, t] * (changed - dense)[i, t].square().sum() for t in range(7))
        size = sum(weights[i, t] * dense[i, t].square().sum() for t in range(7))
        got = fidelity.relative_error(changed, dense, weights)[i].item()
        assert got == pytest.approx((moved / size).sqrt().item(), rel=1e-5)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_salience_is_high_where_a_token_differs_and_for_prefix_tokens(prefix):
    torch.manual_seed(0)
    dense = 3 + 0.1 * torch.randn(2, prefix + 400, 8)
    objects = prefix + torch.arange(40, 48)
    dense[:, objects] += 2 * torch.randn(2, 8, 8)
    weights = fidelity.salience(dense, prefix)
    assert weights.mean(1).tolist() == pytest.approx([1, 1])
    # 2 % of the tokens differ by twenty times the others' spread: to the eighth power, all there is.
    assert (weights[:, objects].sum(1) + weights[:, :prefix].sum(1) > 0.99 * weights.sum(1)).all()
    assert (weights[:, :prefix] >= weights.amax(1, keepdim=True)).all()


def test_one_outlier_is_not_all_that_salience_sees():
    torch.manual_seed(0)
    dense = torch.randn(1, 1000, 8)
    dense[0, 3] *= 1000
    # Without a ceiling it would weigh everything; with it, as much as each of the top 1 %.
    assert fidelity.salience(dense, 0)[0, 3] < 0.1 * 1000


def test_tokens_that_are_all_alike_weigh_the_same():
    weights = fidelity.salience(torch.ones(1, 9, 4), 0)
    assert torch.equal(weights, torch.ones(1, 9))


def test_a_shift_of_the_background_counts_less_than_a_change_of_the_objects():
    torch.manual_seed(0)
    dense = torch.ones(1, 400, 8)
    dense[:, :8] = torch.randn(1, 8, 8) * 3
    shifted, lost = dense.clone(), dense.clone()
    shifted[:, 8:] += 0.3
    lost[:, :8] = 1
    weights = fidelity.salience(dense, 0)
    assert fidelity.relative_error(shifted, dense, weights) < 0.01
    assert fidelity.relative_error(lost, dense, weights) > 0.5
