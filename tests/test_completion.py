"""Linear maps: the regression against a reference, what cannot be fitted, and what each method fits."""

import math

import pytest
import torch
from conftest import SWIN_GRID, SWINS, attentions_of, blocks_of, make_images, make_model, plan_of
from test_apply import features, mapped_by_hand, scored, tensors_of
from torch.nn.functional import layer_norm, scaled_dot_product_attention

import sparsight
from sparsight.attach import family_in
from sparsight.completions.linear import (
    RIDGE,
    ROWS_PER_UNKNOWN,
    TINY,
    Quantile,
    Regression,
    log_error,
    mapped,
    normalised,
)
from sparsight.ops.partition import kept_count, rank
from sparsight.ops.statistics import lattice_sample


def drawn(rows, columns, out, noise=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, columns, generator=generator)
    table = torch.randn(columns + 1, out, generator=generator)
    return a, mapped_by_hand(a, table) + noise * torch.randn(rows, out, generator=generator)


def by_least_squares(a, y):
    """The same problem as rows: [A; sqrt(ridge) I] W = [Y; 0], without A^T A."""
    a = torch.cat([a, torch.ones(len(a), 1)], 1).double()
    ridge = RIDGE * a.square().sum(0).mean()
    rows = torch.cat([a, ridge.sqrt() * torch.eye(a.shape[1], dtype=torch.double)])
    goal = torch.cat([y.double(), torch.zeros(a.shape[1], y.shape[1], dtype=torch.double)])
    return torch.linalg.lstsq(rows, goal).solution.float()


@pytest.mark.parametrize(("rows", "columns", "out"), [(400, 20, 7), (98, 48, 48), (2000, 5, 1)])
def test_a_regression_is_the_least_squares_solution_with_a_ridge(rows, columns, out):
    a, y = drawn(rows, columns, out)
    regression = Regression(a, y)
    table = regression.solved("the map")
    assert table.dtype == torch.float32
    # float64 sums: what is left of the digits after A^T A are more than float32's.
    torch.testing.assert_close(table, by_least_squares(a, y), atol=1e-5, rtol=1e-5)
    missed = (mapped_by_hand(a, table) - y).square().sum() / y.square().sum()
    assert regression.left == pytest.approx(missed.item(), rel=0.01)


@pytest.mark.parametrize("size", [None, 4.0, torch.tensor([[2.0], [8.0]])])
def test_the_log_error_of_a_token_is_of_its_mean_square_relative_to_a_size(size):
    missed = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    missed[1, 3] = 0  # what is met exactly has a smallest error, not one of minus infinity
    got = log_error(missed) if size is None else log_error(missed, size)
    wanted = (missed.square().sum(2) / 7 / (1 if size is None else size) + TINY).log()
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    assert got[1, 3].item() == pytest.approx(math.log(TINY))


def test_pictures_are_taken_in_one_after_the_other_without_being_held():
    a, y = drawn(600, 16, 16)
    whole, streamed = Regression(a, y), Regression(a[:100], y[:100])
    for part in (slice(100, 350), slice(350, 600)):
        streamed += Regression(a[part], y[part])
    torch.testing.assert_close(streamed.solved("x"), whole.solved("x"), atol=1e-6, rtol=1e-6)
    assert streamed.left == pytest.approx(whole.left, abs=1e-9)
    held = [value for value in vars(streamed).values() if isinstance(value, torch.Tensor)]
    assert max(value.numel() for value in held) == 17 * 17


def test_columns_that_are_always_zero_or_alike_are_fitted_all_the_same():
    a, y = drawn(300, 10, 4)
    a[:, 3], a[:, 5] = 0, a[:, 4]
    y = mapped_by_hand(a, torch.ones(11, 4))
    table = Regression(a, y).solved("the map")
    assert torch.isfinite(table).all()
    # The ridge, a ten-thousandth of the data, is all that keeps it from the exact values.
    torch.testing.assert_close(mapped_by_hand(a, table), y, atol=1e-2, rtol=1e-2)


def test_values_far_from_zero_and_in_half_precision_are_summed_in_float64():
    a, y = drawn(4000, 8, 3, noise=0)
    table = Regression(100 + a.bfloat16(), y).solved("the map")
    assert table.dtype == torch.float32
    wanted = by_least_squares((100 + a.bfloat16()).float(), y)
    torch.testing.assert_close(table, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["a", "y"])
def test_values_that_are_not_finite_are_refused_by_name(value, where):
    a, y = drawn(100, 5, 5)
    (a if where == "a" else y)[17, 2] = value
    with pytest.raises(sparsight.PlanError, match=r"^the map of layer 3 cannot be fitted: NaN"):
        Regression(a, y).solved("the map of layer 3")


def test_too_few_rows_are_refused_with_how_many_are_needed():
    a, y = drawn(41, 20, 3)
    with pytest.raises(sparsight.PlanError, match=r"^the map cannot be fitted to 41 .* at least 42:"):
        Regression(a, y).solved("the map")
    assert ROWS_PER_UNKNOWN * 21 == 42
    a, y = drawn(42, 20, 3)
    assert Regression(a, y).solved("the map").shape == (21, 3)


def test_a_quantile_is_of_all_values_and_nan_is_refused():
    values = torch.randn(501, generator=torch.Generator().manual_seed(3))
    found = Quantile(values[:200], 200)  # all of one picture's, and few of another's
    found += Quantile(values[200:], 50)
    torch.testing.assert_close(found.solved("the bound"), values.quantile(1 - 250 / 501))
    assert Quantile(values, -7).solved("the bound") == values.max()
    values[4] = torch.nan
    with pytest.raises(sparsight.PlanError, match=r"^the bound cannot be fitted: NaN"):
        Quantile(values, 150).solved("the bound")


def test_a_map_of_tokens_is_a_product_with_a_one_appended():
    x, table = torch.randn(2, 9, 6), torch.randn(7, 5)
    torch.testing.assert_close(mapped(x, table), mapped_by_hand(x, table), atol=1e-5, rtol=1e-5)
    normal = normalised(3 + 5 * x)
    torch.testing.assert_close(normal.mean(2), torch.zeros(2, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.var(2, correction=0), torch.ones(2, 9), atol=1e-3, rtol=0)


# What each method fits

GRID = (20, 15)  # 300 patches: enough rows for maps of width 48


def fitted(part, x, host, wanted=None):
    """Drive the `fit` of a changed module with one picture; what it found, and its regressions."""
    asked, steps = [], part.fit(x, host, wanted)
    try:
        asked.append(next(steps))
        while True:
            asked.append(steps.send(asked[-1].solved("it")))
    except StopIteration as stop:
        return stop.value, asked


@torch.no_grad()
def given_to(model, images, modules):
    """What each module is given in one pass, (first argument, the others)."""
    seen = {}

    def hook(module, args, kwargs):
        rest = dict(kwargs)
        first = args[0] if args else rest.pop("hidden_states")
        if len(args) > 1:
            rest["input_dimensions"] = args[1]
        seen[module] = first, rest

    handles = [m.register_forward_pre_hook(hook, with_kwargs=True) for m in modules]
    family_in(model).features(model, images)
    for handle in handles:
        handle.remove()
    return [seen[module] for module in modules]


@pytest.mark.parametrize("name", ["dinov2_reg", "dinov3", "hf_dinov3"])
@torch.no_grad()
def test_sparse_attention_fits_what_its_queries_miss(name):
    model = make_model(name)
    images, family = make_images(model, 1, GRID), family_in(model)
    prefix = family.prefix_tokens(model)
    config = sparsight.SVE(layers=(1,), keep=1 / 4, keep_queries=1 / 8, completion="map", sample_every=4,
                           min_tokens=0)  # fmt: skip
    sparsight.apply(model, plan_of(model, config))
    attn = attentions_of(model)[1]
    ((h, host),) = given_to(model, images, [attn])
    found, _ = fitted(attn, h, host)

    q, k, v = family.parts.qkv(attn, h, **{n: host[n] for n in family.per_token})
    full = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    order = rank(full[:, :, lattice_sample(h.shape[1], prefix, 4)].mean((1, 2)), prefix)[0]
    nq, nk = (kept_count(h.shape[1], share, prefix) for share in (1 / 8, 1 / 4))
    few = scaled_dot_product_attention(q, k[:, :, order[:nk]], v[:, :, order[:nk]])
    ys = [family.parts.merge(attn, out.transpose(1, 2), h) for out in (full @ v, few)]
    rest = order[nq:]
    wanted = by_least_squares(h[0, rest], (ys[0] - ys[1])[0, rest])
    assert list(found) == ["map"]
    torch.testing.assert_close(found["map"], wanted, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("score", ["standout", "map-error"])
@torch.no_grad()
def test_routed_mlps_fit_what_skipping_them_leaves_out(score):
    model = make_model("dinov2_reg")
    images, prefix = make_images(model, 1, GRID), 5
    config = sparsight.MLPRouting(layers=(1,), keep=1 / 4, score=score, min_tokens=0)
    plan = plan_of(model, config)
    mlp = blocks_of(model)[1].mlp
    ((h, host),) = given_to(model, images, [mlp])
    full = mlp(h)
    sparsight.apply(model, plan)
    found, _ = fitted(mlp, h, host)
    own = {}
    if score == "map-error":
        everywhere = mapped_by_hand(h, by_least_squares(h[0], full[0]))
        error = (full - everywhere).square().mean(2).add(TINY).log()
        own["error"] = by_least_squares(torch.cat([h, h**2], 2)[0], error[0, :, None])[:, 0]
        torch.testing.assert_close(found["error"], own["error"], atol=1e-3, rtol=1e-2)
    order = rank(scored(score, h, prefix, own), prefix)[0]
    rest = order[kept_count(h.shape[1], 1 / 4, prefix) :]
    torch.testing.assert_close(
        found["map"], by_least_squares(h[0, rest], full[0, rest]), atol=2e-4, rtol=2e-3
    )
    assert set(found) == set(tensors_of(plan, "mlp-routing", 1))


@pytest.mark.parametrize("bound", [None, "calibrated"])
@torch.no_grad()
def test_exits_fit_what_the_dense_model_makes_of_who_has_left(bound):
    model = make_model("dinov3")
    images, prefix = make_images(model, 1, GRID), 5
    config = sparsight.EarlyExit(after=(1,), keep=1 / 3, score="map-error", taps=(2,), bound=bound,
                                 min_tokens=0)  # fmt: skip
    plan, outputs = plan_of(model, config), {}
    for layer, block in enumerate(blocks_of(model)):
        block.register_forward_hook(lambda _, args, out, n=layer: outputs.setdefault(n, out))
    features(model, images)
    for block in blocks_of(model):
        block._forward_hooks.clear()
    sparsight.apply(model, plan)
    block = blocks_of(model)[2]
    ((x, host),) = given_to(model, images, [block])
    found, _ = fitted(block, x, host, outputs)

    n, count = layer_norm(x, x.shape[2:]), x.shape[1]
    added, goal = (outputs[3] - x)[0, prefix:], outputs[3][0, prefix:]
    read = n[0, prefix:]
    missed = (added - mapped_by_hand(read, by_least_squares(read, added))).square().sum(1)
    error = (missed / goal.square().sum(1).mean()).add(TINY).log()
    weight = by_least_squares(torch.cat([read, read**2], 1), error[:, None])[:, 0]
    torch.testing.assert_close(found["error"], weight, atol=1e-3, rtol=1e-2)
    score = scored("map-error", n, prefix, {"error": found["error"]})
    kept = kept_count(count, 1 / 3, prefix)
    if bound:
        assert found["bound"].item() == pytest.approx(score[0, prefix:].quantile(2 / 3).item(), rel=1e-4)
        kept = -(-(int((score[0, prefix:] >= found["bound"]).sum()) + prefix) // 128) * 128
    gone = rank(score, prefix)[0, kept:].sort().values
    for layer in (2, 3):
        wanted = by_least_squares(n[0, gone], (outputs[layer] - x)[0, gone])
        torch.testing.assert_close(found[f"map.{layer}"], wanted, atol=2e-3, rtol=2e-3)
    assert set(found) == set(tensors_of(plan, "early-exit", 2))


@pytest.mark.parametrize("name", SWINS)
@torch.no_grad()
def test_skipped_windows_fit_what_the_block_adds_to_their_tokens(name):
    model = SWINS[name]()
    images, family = make_images(model, 2, SWIN_GRID), family_in(model)
    plan = plan_of(model, sparsight.SparseViT(sparsity=((0.6,), (0, 0)), completion="map"))
    blocks, outputs = family.blocks(model), []
    for layer in (0, 1):
        blocks[layer].register_forward_hook(lambda _, args, out: outputs.append(out))
    features(model, images)
    dense = [out if isinstance(out, torch.Tensor) else out[0] for out in outputs]
    sparsight.apply(model, plan)
    block = blocks[0]
    ((x, host),) = given_to(model, images, [block])
    found, _ = fitted(block, x, host)
    sparse = block(x, **host) if name.startswith("timm") else block(x, **host)[0]
    # Who was skipped has x + [n, 1] W of the plan's made-up map; all others are the dense block's.
    rows, one, other = (t.flatten(1, -2) for t in (x, sparse, dense[0]))
    normal = layer_norm(rows, rows.shape[2:])
    made_up = rows + mapped_by_hand(normal, tensors_of(plan, "sparsevit", 0)["map"])
    skipped = (one - made_up).abs().amax(2) < 1e-4
    assert (one - other)[~skipped].abs().max() < 1e-4
    assert 0.5 < skipped.float().mean() < 0.7
    wanted = by_least_squares(normal[skipped], (other - rows)[skipped])
    torch.testing.assert_close(found["map"], wanted, atol=2e-4, rtol=2e-3)
