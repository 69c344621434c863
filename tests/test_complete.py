"""Completion: maps fitted on what is really skipped, against least squares and on held-out pictures."""

import copy
import json

import pytest
import torch
from conftest import SWINS, attentions_of, blocks_of, make_images, make_model, plan_of, run_features
from test_apply import scored

import sparsight
from sparsight.attach import applied, apply, as_plan, family_in
from sparsight.completions.linear import RIDGE, Regression, normalised
from sparsight.errors import ImagesError
from sparsight.inplace import is_changed
from sparsight.methods import SVE, EarlyExit, MLPRouting, SparseViT
from sparsight.modes import evaluating
from sparsight.ops import partition
from sparsight.ops.attention import masked_attention
from sparsight.stages import complete as completing
from sparsight.stages.bench import Bench, bench_of
from sparsight.stages.complete import COMPLETION_FILE, complete
from sparsight.stages.observe import outputs_of

GRID = (20, 21)  # tokens enough for maps of 49 rows after a bound, which keeps multiples of 128
EXIT = EarlyExit(after=(0,), keep=0.5)
SPOT = sparsight.SPOT(stages=(1, 3), rho=0.7, hidden=8, sample=9, completion="map")

# name -> settings with completion, and what takes it away
SETTINGS = {
    "sve": (SVE(layers=(0, 1, 2), keep=1 / 4, completion="map"), {"completion": "none"}),
    "sve of groups": (
        SVE(layers=(1, 2), groups=((1, 2),), keep=1 / 4, keep_queries=1 / 8, completion="map"),
        {"completion": "none"},
    ),
    "mlp-routing": (MLPRouting(), {"completion": "last"}),
    "mlp-routing by error": (MLPRouting(score="map-error"), {"completion": "last", "score": "standout"}),
    "early-exit": (EXIT, {"completion": "last"}),
    "early-exit twice, tapped": (
        EarlyExit(after=(0, 1), keep=(0.7, 0.4), taps=(2,)),
        {"completion": "last", "taps": ()},
    ),
    "early-exit under a bound": (
        EXIT.model_copy(update={"score": "map-error", "bound": "calibrated"}),
        {"completion": "last", "score": "standout", "bound": None},
    ),
    "spot": (SPOT, {"completion": "last"}),
}


def at_random(model, settings):
    """A plan with networks at random, if there are any, and without what is fitted."""
    plan = plan_of(model, settings) if isinstance(settings, sparsight.SPOT) else as_plan(settings)
    networks = {k: v for k, v in plan.weights.items() if ".map." not in k}
    return as_plan(plan.methods).with_(weights=networks)


def pictures_of(model, count, seed=1, grid=GRID):
    return list(make_images(model, batch=count, grid=grid, seed=seed))


def moved(model, plan, pictures):
    """Mean relative error of the final features."""
    sparse, errors = apply(copy.deepcopy(model), plan.at_any_size()), []
    for picture in pictures:
        with torch.no_grad():
            wanted, got = (run_features(m, picture[None]) for m in (model, sparse))
        errors.append(((got - wanted).norm() / wanted.norm()).item())
    return sum(errors) / len(errors)


@pytest.mark.parametrize("name", ["dinov3", "hf_vit"])
@pytest.mark.parametrize("method", SETTINGS)
def test_maps_lower_the_error_on_pictures_they_have_not_seen(name, method):
    model, (settings, less) = make_model(name), SETTINGS[method]
    plan = complete(bench_of(model, pictures_of(model, 4)), at_random(model, settings))
    plain = plan.changed(plan.methods[0].model_copy(update=less))
    errors = [moved(model, p, pictures_of(model, 2, seed=9)) for p in (plain, plan)]
    # Attention that sees a quarter of the keys misses little here, and a map of the query finds part of
    # it (0.6 and 0.9 of the error stay); a token without its MLP or later layers loses much, of which
    # a map brings back all but 0.02 to 0.3.
    assert errors[1] < (0.95 if method.startswith("sve") else 0.4) * errors[0]
    rows = plan.recipe["completion"]
    assert [row["layer"] for row in rows] == sorted({int(k.split(".")[1]) for k in plan.weights})
    assert all(0 <= row["left"] < 1 and row["tokens"] > 0 for row in rows)


@pytest.mark.parametrize("name", SWINS)
@pytest.mark.parametrize("score", ["standout", "magnitude", "map-error"])
def test_maps_lower_the_error_where_windows_are_dropped(name, score):
    model = SWINS[name]()
    pictures = list(torch.randn(6, 3, 92, 76, generator=torch.Generator().manual_seed(1)))
    settings = SparseViT(sparsity=0.4, score=score, completion="map")
    plan = complete(bench_of(model, pictures[:4]), as_plan(settings))
    plain = plan.changed(
        plan.one(SparseViT).model_copy(update={"completion": "last", "score": "standout"})
    )
    # Features of dropped windows are not a block's (0.7 to 0.9 of error); 0.2 to 0.3 of that stays.
    assert moved(model, plan, pictures[4:]) < 0.5 * moved(model, plain, pictures[4:])


def least_squares(read, goal):
    """Ridge regression as least squares with one more row for each column, in float64."""
    a = torch.cat([read, torch.ones(len(read), 1)], 1).double()
    ridge = (RIDGE * a.square().sum(0).mean()).sqrt()
    rows = torch.cat([a, ridge * torch.eye(a.shape[1])])
    goal = torch.cat([goal.double(), torch.zeros(a.shape[1], goal.shape[1])])
    return torch.linalg.lstsq(rows, goal).solution


def agree(table, expected):
    # Both solve in float64; what is stored, and what the rows come from, is float32.
    return (table - expected).abs().max() < 1e-3 * expected.abs().max()


def attention_missed(model, config, picture, layer):
    """What the queries that do not see all read, and what their attention misses, by the mask."""
    family, block = family_in(model), blocks_of(model)[layer]
    prefix, parts, attn = family.prefix_tokens(model), family.parts, attentions_of(model)[layer]
    seen = []
    handle = block.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    run_features(model, picture[None])
    handle.remove()
    (x, *_), kwargs = seen[0]
    tables = {k: kwargs[k] for k in family.per_token if kwargs.get(k) is not None}
    h = parts.norm(block, x)
    q, k, v = parts.qkv(attn, h, **tables)
    order = partition.rank(scored(config.score, h, prefix, {}, config.sample_every, (q, k)), prefix)
    nq, nk = (partition.kept_count(h.shape[1], share, prefix) for share in config.kept_at(layer))
    whole = masked_attention(q, k, v, order, 0, h.shape[1])
    missed = parts.merge(attn, whole, h) - parts.merge(attn, masked_attention(q, k, v, order, nq, nk), h)
    rest = order[0, nq:]
    return h[0, rest], missed[0, rest]


def rows_of(found):
    return [torch.cat(column) for column in zip(*found, strict=True)]


@pytest.mark.parametrize("name", ["dinov2_reg", "dinov3", "hf_dinov2"])
def test_maps_of_sve_are_least_squares_on_the_stream_that_the_ones_before_have_repaired(name):
    model = make_model(name)
    pictures = pictures_of(model, 3, grid=(9, 7))
    config = SVE(layers=(1, 2), keep=1 / 4, keep_queries=1 / 8, sample_every=4, completion="map")
    plan = complete(bench_of(model, pictures), as_plan(config))
    with torch.no_grad():
        read, missed = rows_of([attention_missed(model, config, p, 1) for p in pictures])
        assert agree(plan.weights["sve.1.map"], least_squares(read, missed))
        first = as_plan(config.model_copy(update={"layers": (1,), "min_tokens": 0}))
        apply(model, first.with_(weights={"sve.1.map": plan.weights["sve.1.map"]}))
        read, missed = rows_of([attention_missed(model, config, p, 2) for p in pictures])
    assert agree(plan.weights["sve.2.map"], least_squares(read, missed))


def test_the_map_of_an_mlp_is_least_squares_on_the_tokens_that_skip_it():
    model = make_model("dinov2_reg")
    pictures = pictures_of(model, 3, grid=(9, 7))
    plan = complete(bench_of(model, pictures), as_plan(MLPRouting(layers=(1,), keep=0.3)))
    seen = []
    model.blocks[1].mlp.register_forward_hook(lambda _, args, out: seen.append((args[0][0], out[0])))
    skipping = []
    with torch.no_grad():
        for picture in pictures:
            run_features(model, picture[None])
            h, y = seen[-1]
            score = (h - h[5:].mean(0)).square().sum(1)
            score[:5] = torch.inf
            rest = score.argsort(descending=True)[partition.kept_count(len(h), 0.3, 5) :]
            skipping.append((h[rest], y[rest]))
    assert agree(plan.weights["mlp-routing.1.map"], least_squares(*rows_of(skipping)))


def test_maps_of_early_exit_are_least_squares_from_the_exit_to_the_dense_end_and_each_tap():
    model = make_model("hf_dinov2_reg")
    pictures, prefix = pictures_of(model, 3, grid=(9, 7)), 5
    settings = EarlyExit(after=(1,), keep=0.4, taps=(2,))
    plan = complete(bench_of(model, pictures), as_plan(settings))
    assert set(plan.weights) == {"early-exit.2.map.2", "early-exit.2.map.3"}
    for tap in (2, 3):
        rows = []
        for picture in pictures:
            with evaluating(model), outputs_of(model, (1, tap)) as outputs:
                run_features(model, picture[None])
            x, y = outputs[1][0], outputs[tap][0]
            normal = torch.nn.functional.layer_norm(x, x.shape[-1:])
            score = (normal - normal[prefix:].mean(0)).square().sum(1)
            score[:prefix] = torch.inf
            rest = score.argsort(descending=True)[partition.kept_count(len(x), 0.4, prefix) :]
            rows.append((normal[rest], (y - x)[rest]))
        assert agree(plan.weights[f"early-exit.2.map.{tap}"], least_squares(*rows_of(rows)))


def test_a_token_that_has_left_ends_as_its_map_says():
    model = make_model("augreg")
    pictures = pictures_of(model, 3, grid=(9, 7))
    plan = complete(bench_of(model, pictures), as_plan(EarlyExit(after=(0,), keep=0.4)))
    apply(model, plan.at_any_size())
    with evaluating(model), outputs_of(model, (0, 3)) as outputs:
        run_features(model, pictures[0][None])
    x, end = outputs[0][0], outputs[3][0]
    table = plan.weights["early-exit.1.map.3"]
    mapped = x + normalised(x) @ table[:-1] + table[-1]
    as_mapped = ((end - mapped).abs().max(1).values < 1e-4 * end.abs().max()).sum()
    assert as_mapped == 64 - partition.kept_count(64, 0.4, 1)


SMALL = {name: SETTINGS[name] for name in ("sve", "mlp-routing by error", "early-exit", "spot")}


def small(method):
    """Model, pictures and a plan without maps, quick to complete."""
    if method == "sparsevit":
        model = SWINS["timm_swin"]()
        pictures = list(torch.randn(4, 3, 92, 76, generator=torch.Generator().manual_seed(1)))
        return model, pictures, as_plan(SparseViT(sparsity=0.4, score="map-error", completion="map"))
    model = make_model("augreg")
    return model, pictures_of(model, 4, grid=(12, 11)), at_random(model, SMALL[method][0])


@pytest.mark.parametrize("method", [*SMALL, "sparsevit"])
def test_completing_is_deterministic_and_leaves_no_trace(method):
    model, pictures, plan = small(method)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    blocks_of(model)[1].eval()
    modes = [m.training for m in model.modules()]
    plans = [complete(bench_of(model, pictures), plan) for _ in range(2)]
    assert plans[0] == plans[1]
    assert plans[0].weights.keys() > plan.weights.keys()
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert not any(map(is_changed, model.modules()))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("method", [*SMALL, "sparsevit"])
@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_completion_goes_on_to_the_same_maps(tmp_path, monkeypatch, method, after):
    model, pictures, plan = small(method)
    if method == "early-exit":
        plan = plan.changed(EarlyExit(after=(0, 1, 2), keep=(0.7, 0.4, 0.2)))
    whole = complete(bench_of(model, pictures), plan)
    places = {name.rpartition(".map")[0] for name in whole.weights if ".map" in name}
    usual, added = completing._Saved.add, []

    def interrupted(saved, place, new):
        found = usual(saved, place, new)
        added.append(place.layer)
        if len(set(added)) == after:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(completing._Saved, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        complete(bench_of(model, pictures, folder=tmp_path), plan)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [COMPLETION_FILE]
    asked, solved = [], Regression.solved
    monkeypatch.setattr(Regression, "solved", lambda ask, what: asked.append(what) or solved(ask, what))
    resumed = complete(bench_of(model, pictures, folder=tmp_path), plan)
    assert resumed == whole
    assert json.loads(resumed.to_json()) == json.loads(whole.to_json())  # and reports what it says
    # What was saved is not fitted again, and all of the rest is.
    assert len(set(asked)) == len(places) - after


def test_a_file_of_other_maps_or_a_damaged_one_is_fitted_anew(tmp_path):
    model, pictures, plan = small("mlp-routing by error")
    other = plan.changed(MLPRouting(keep=0.5))
    for seen in (pictures[:3], pictures):
        complete(bench_of(model, seen, folder=tmp_path), other)
        assert complete(bench_of(model, pictures, folder=tmp_path), plan) == complete(
            bench_of(model, pictures), plan
        )
        # Of the same plan, but of other pictures than before.
        fewer = bench_of(model, pictures, max_images=2, folder=tmp_path)
        assert complete(fewer, plan) == complete(bench_of(model, pictures, max_images=2), plan)
    (tmp_path / COMPLETION_FILE).write_bytes(b"1234567890")
    assert complete(bench_of(model, pictures, folder=tmp_path), plan) == complete(
        bench_of(model, pictures), plan
    )


def test_nothing_is_fitted_where_nothing_is_completed():
    model = make_model("augreg")
    plan = complete(bench_of(model, pictures_of(model, 1)), as_plan(SVE(layers="all")))
    assert not plan.weights
    assert plan.sve.layers == (0, 1, 2, 3)


def refused(model, pictures, plan, tmp_path):
    """The sentence of the refusal; nothing has changed, and no more is written than is fitted."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(sparsight.SparsightError) as caught:
        complete(bench_of(model, pictures, folder=tmp_path), plan)
    assert applied(model) is None
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert all(
        torch.equal(v.nan_to_num(), before[k].nan_to_num()) for k, v in model.state_dict().items()
    )
    assert {path.name for path in tmp_path.iterdir()} <= {COMPLETION_FILE}
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("method", SMALL)
def test_too_few_tokens_are_one_sentence(tmp_path, method):
    model = make_model("augreg")
    plan = at_random(model, SMALL[method][0])
    said = refused(model, pictures_of(model, 1, grid=(9, 7)), plan, tmp_path)
    assert "skipped tokens, it needs at least 98: give more or larger pictures" in said
    assert plan.name in said


@pytest.mark.parametrize("method", [*SMALL, "sparsevit"])
def test_weights_and_pictures_that_are_not_finite_are_one_sentence(tmp_path, method):
    model, pictures, plan = small(method)
    broken = [*pictures[:2], pictures[2].clone(), pictures[3]]
    broken[2][1, 5, 5] = torch.nan
    assert "NaN or infinity" in refused(model, broken, plan, tmp_path)
    next(blocks_of(model)[1].mlp.parameters()).data[0, 0] = torch.inf
    assert "NaN or infinity" in refused(model, pictures, plan, tmp_path)


def test_where_nothing_is_skipped_there_is_nothing_to_fit(tmp_path):
    model = make_model("augreg")
    plan = at_random(model, SPOT.model_copy(update={"rho": 0.9999}))
    said = refused(model, pictures_of(model, 4, grid=(9, 7)), plan, tmp_path)
    assert "nothing is skipped there in any of the pictures" in said


def test_no_readable_picture_is_one_sentence(tmp_path):
    class Unreadable:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            raise ImagesError(f"cannot read {index}.png")

    model = make_model("augreg")
    said = refused(model, Unreadable(), as_plan(EXIT), tmp_path)
    assert "none of the 3 images can be read: cannot read 0.png" in said


@pytest.mark.parametrize("method", SETTINGS)
def test_pictures_of_two_sizes_are_fitted_together(method):
    model, (settings, less) = make_model("hf_vit"), SETTINGS[method]
    sizes = ((20, 21), (24, 18))
    pictures = [p for grid in sizes for p in pictures_of(model, 2, grid=grid)]
    plan = complete(bench_of(model, pictures), at_random(model, settings))
    tokens = [row["tokens"] for row in plan.recipe["completion"]]
    one_size = complete(bench_of(model, pictures[:2]), at_random(model, settings))
    assert all(
        both > one["tokens"] for both, one in zip(tokens, one_size.recipe["completion"], strict=True)
    )
    plain = plan.changed(plan.methods[0].model_copy(update=less))
    for grid in sizes:
        held = pictures_of(model, 1, seed=9, grid=grid)
        assert moved(model, plan, held) < moved(model, plain, held)


def test_a_map_is_used_at_any_size_and_batch():
    model, pictures, plan = small("early-exit")
    plan = complete(bench_of(model, pictures), plan)
    apply(model, plan.at_any_size())
    images = make_images(model, batch=2, grid=(10, 13))
    with torch.no_grad():
        both = run_features(model, images)
        one = torch.cat([run_features(model, image[None]) for image in images])
    # The same in another order of sums.
    assert (both - one).abs().max() < 1e-4 * both.abs().max()


def test_the_bench_counts_what_it_leaves_out_and_reads_a_picture_once():
    model = make_model("augreg")

    class Counted:
        reads: tuple = ()

        def __len__(self):
            return 6

        def __getitem__(self, index):
            self.reads = (*self.reads, index)
            if index in (0, 4):
                raise ImagesError(f"cannot read {index}.png")
            return make_images(model, batch=1, grid=(12, 11), seed=index)[0]

    images = Counted()
    bench = bench_of(model, images)
    assert isinstance(bench, Bench)
    plan = complete(bench, as_plan(SVE(layers=(1, 2), keep=1 / 4, completion="map")))
    complete(bench, as_plan(MLPRouting()))
    assert bench.counted() == (4, ("cannot read 0.png", "cannot read 4.png"))
    assert sorted(images.reads) == list(range(6))
    rest = partition.kept_count(133, 1 / 4, 1)
    assert [row["tokens"] for row in plan.recipe["completion"]] == [4 * (133 - rest)] * 2
    assert len(list(bench.pictures(2))) == 2  # places 1, in place of 0, and 3


def test_a_bench_is_of_a_dense_model_with_weights():
    model = make_model("augreg")
    apply(model, SVE(layers=(1,)))
    with pytest.raises(sparsight.PlanError, match="restore"):
        bench_of(model, pictures_of(model, 1))
    with pytest.raises(sparsight.PlanError, match="no weights"):
        bench_of(torch.nn.Identity(), [])
