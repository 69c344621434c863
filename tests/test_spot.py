"""SPOT: the statistics it reads, who leaves, what is left behind, and how it learns."""

import copy
import math
from itertools import chain, pairwise

import pytest
import torch
from conftest import WINDOWED, blocks_of, make_images, make_model, plan_of
from test_apply import features, mapped_by_hand, tensors_of
from test_ops import full_map, random_qkv

import sparsight
from sparsight.attach import applied, family_in
from sparsight.families import family_of
from sparsight.methods import method_of, tensor_name
from sparsight.methods.reduced import CARRY
from sparsight.methods.spot.policy import HIDDEN, policed_attention
from sparsight.ops import dynamics
from sparsight.ops.partition import kept_count
from sparsight.plan import Plan
from sparsight.scores.relevance import described, relevance
from sparsight.stages import relevance as learning
from sparsight.stages import train as training
from sparsight.stages.observe import outputs_of, stages_left


def make_plan(model, **settings):
    """Tokens leave before layers 1 and 3, ranked by made-up networks."""
    settings = {"stages": (1, 3), "rho": 0.6, "min_tokens": 0, "hidden": 8, "sample": 9} | settings
    return plan_of(model, sparsight.SPOT(**settings), seed=7)


def at(plan, **changes):
    return plan.changed(plan.one(sparsight.SPOT).model_copy(update=changes))


def reference(model, plan, images, at_two=None):
    """From the definitions: all tokens computed, those that have left masked out and put back.

    Returns the final features and, for each layer, who is there after it; `at_two` receives what layer 2
    returns.
    """
    family, config = family_of(model), plan.one(sparsight.SPOT)
    parts, prefix = family.parts, family.prefix_tokens(model)
    here, notes, record, left = [], {}, [], []

    def hook_for(layer):
        def hook(block, args, kwargs, output):
            tables = {k: kwargs[k] for k in family.per_token if kwargs.get(k) is not None}
            x = args[0].flatten(1, -2)
            b, n, _ = x.shape
            if not here:
                here.append(torch.ones(b, n, dtype=torch.bool))
            there = here[0]
            before = there.clone()
            if layer in config.stages:
                own = tensors_of(plan, "spot", layer)
                weights = [own[name] for name in ("inner.weight", "inner.bias", "outer.weight")]
                count = kept_count(n, config.rho ** (config.stages.index(layer) + 1), prefix)
                for image in range(b):
                    patches = there[image, prefix:].nonzero()[:, 0]
                    earlier = [notes[other][image][:, patches] for other in config.noting(layer)]
                    read = described(x[image, prefix + patches][None], earlier)
                    best = relevance(read, *weights)[0].topk(count - prefix).indices
                    there[image, prefix:] = False
                    there[image, prefix + patches[best]] = True
            h, attn = parts.norm(block, x), parts.attention(block)
            q, k, v = parts.qkv(attn, h, **tables)
            notes[layer] = []
            for image in range(b):
                index = there[image].nonzero()[:, 0]
                found = dynamics.sampled_statistics(
                    q[image : image + 1, :, index], k[image : image + 1, :, index], prefix, config.sample
                )
                whole = torch.zeros(1, n - prefix, found[0, 0].numel())
                notes[layer].append(whole.index_copy(1, index[prefix:] - prefix, found.flatten(2)))
            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            out = scores.masked_fill(~there[:, None, None], -torch.inf).softmax(-1) @ v
            y = parts.residual(block, x, parts.merge(attn, out.transpose(1, 2), h))
            record.append(there.clone())
            if layer in config.stages:
                left.append((before & ~there, x, tensors_of(plan, "spot", layer)))
            new = torch.where(there[..., None], parts.mlp(block, y), x)
            for gone, last, own in left:
                if (table := own.get(f"map.{layer}")) is not None:
                    normal = torch.nn.functional.layer_norm(last, last.shape[2:])
                    new = torch.where(gone[..., None], last + mapped_by_hand(normal, table), new)
            if layer == 2 and at_two is not None:
                at_two.append(new)
            return new.view(args[0].shape)

        return hook

    blocks = family.blocks(model)
    handles = [
        block.register_forward_hook(hook_for(layer), with_kwargs=True)
        for layer, block in enumerate(blocks)
    ]
    found = features(model, images)
    for handle in handles:
        handle.remove()
    return found, record


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_statistics_equal_their_definitions(prefix):
    n, b = 135, 2
    q, k, _ = random_qkv(b, 3, n, 20)
    a, p = full_map(q, k), n - prefix
    inner = a[:, :, prefix:, prefix:]
    entropy = -(inner * inner.log()).sum(-1)
    wanted = {
        "cls_out": a[:, :, 0, prefix:] * p, "cls_in": a[:, :, prefix:, 0] * p,
        "row_mean": inner.mean(3) * p, "row_spread": inner.var(3, correction=0).sqrt() * p,
        "column_mean": inner.mean(2) * p, "column_spread": inner.var(2, correction=0).sqrt() * p,
        "row_reach": entropy.exp() / p,
    }  # fmt: skip
    names = dynamics.statistic_names(prefix)
    wanted = torch.stack([wanted[name] for name in names], -1).transpose(1, 2)
    assert wanted.shape == (b, p, 3, len(names))
    # Values up to 100 in float32, through sums of 130 terms; a sample of everything is no estimate.
    for got in (dynamics.token_statistics(q, k, prefix), dynamics.sampled_statistics(q, k, prefix, p)):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_sampled_statistics_are_as_close_as_their_samples_allow(prefix):
    q, k, _ = random_qkv(2, 3, prefix + 601, 20)
    q, sample = q / 4, 60  # even enough that a few queries can speak for all
    exact = dynamics.token_statistics(q, k, prefix)
    got = dynamics.sampled_statistics(q, k, prefix, sample)
    names = dynamics.statistic_names(prefix)
    one = dict(zip(names, exact.unbind(-1), strict=True))
    other = dict(zip(names, got.unbind(-1), strict=True))
    # The error of a mean of `sample` values is their spread / sqrt(sample), its mean size 0.8 of that.
    off = (other["column_mean"] - one["column_mean"]).abs() / one["column_spread"] * sample**0.5
    assert off.mean() < 1
    if prefix:
        torch.testing.assert_close(other["cls_out"], one["cls_out"], atol=1e-5, rtol=1e-5)
        # What is sampled in a row is its normaliser, a mean whose relative spread is the row's.
        relative = (other["cls_in"] / one["cls_in"] - 1).abs() / one["row_spread"] * sample**0.5
        assert relative.median() < 1


def test_statistics_hold_no_map(monkeypatch):
    sizes, usual = [], torch.nn.functional.softmax

    def watched(x, *args, **kwargs):
        sizes.append(x.numel())
        return usual(x, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "softmax", watched)
    q, k, _ = random_qkv(1, 2, 1500, 8)
    dynamics.token_statistics(q, k, 1)
    assert max(sizes) <= 2 * 64 * 1500
    sizes.clear()
    dynamics.sampled_statistics(q, k, 1, 32)
    assert max(sizes) <= 2 * 1500 * 34


@pytest.mark.parametrize("completion", [{}, {"completion": "map", "taps": (2,)}], ids=["last", "map"])
def test_pruned_equals_the_masked_reference(model, completion):
    images = make_images(model)
    plan = make_plan(model, **completion)
    at_two = []
    wanted, record = reference(model, plan, images, at_two)
    dense, prefix = features(model, images), family_in(model).prefix_tokens(model)
    left = torch.stack(record).logical_not()
    sparsight.apply(model, plan)
    with outputs_of(model, [2]) as outputs:
        got = features(model, images)
    stages = stages_left(model, images)
    # Four blocks of float32 with outputs of size one to ten; another kept set moves a thousand times
    # more.
    scale = wanted.abs().max()
    assert (got - wanted).abs().max() <= 1e-5 * scale
    assert (got - dense).abs().max() > 1e-3 * scale
    tapped = at_two[0].flatten(1, -2)
    assert (outputs[2].flatten(1, -2) - tapped).abs().max() <= 1e-5 * tapped.abs().max()
    assert torch.equal(stages == 1, left[1])
    assert torch.equal(stages == 2, left[3] & ~left[1])
    assert not stages[:, :prefix].any()
    n = dense.shape[1]
    for count, there in ((0.6, stages != 1), (0.36, stages == 0)):
        assert (there.sum(1) == kept_count(n, count, prefix)).all()


def test_a_batch_of_two_equals_two_batches_of_one(model):
    images = make_images(model)
    sparsight.apply(model, make_plan(model))
    together = features(model, images)
    alone = torch.cat([features(model, images[:1]), features(model, images[1:])])
    # Matrix products of other shapes round differently; a different kept set would show as 1e-3.
    assert (together - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_keeping_everything_and_restoring_equal_dense(model):
    images = make_images(model)
    dense, keys = features(model, images), list(model.state_dict())
    types, attributes = [type(m) for m in model.modules()], dict(model.__dict__)
    sparsight.apply(model, make_plan(model, rho=1.0))
    assert torch.equal(features(model, images), dense)
    sparsight.restore(model)
    sparsight.apply(model, make_plan(model))
    assert list(model.state_dict()) == keys
    assert not torch.equal(features(model, images), dense)
    sparsight.restore(model)
    assert [type(m) for m in model.modules()] == types
    assert dict(model.__dict__) == attributes
    assert torch.equal(features(model, images), dense)


@pytest.mark.parametrize("name", ["dinov2_reg", "hf_siglip"])
def test_who_has_left_keeps_its_last_value(name):
    model = make_model(name)
    images = make_images(model)
    sparsight.apply(model, make_plan(model))
    with torch.no_grad(), outputs_of(model, range(4)) as outputs:
        family_in(model).features(model, images)
    stages = stages_left(model, images)
    for first, number in ((0, 1), (2, 2)):
        gone = stages == number
        for layer in range(first, 3):
            assert torch.equal(outputs[layer + 1][gone], outputs[layer][gone])
        assert not torch.isclose(outputs[first + 1][stages == 0], outputs[first][stages == 0]).all()
    assert torch.equal((stages == 0).nonzero()[:, 1], getattr(outputs[3], CARRY).rows.flatten())


def test_one_training_ranks_alike_for_every_rho():
    model = make_model("dinov2_reg")
    images, plan = make_images(model), make_plan(model, stages=(2,))
    staying = []
    for rho in (0.3, 0.5, 0.8):
        sparsight.apply(model, at(plan, rho=rho))
        staying.append(stages_left(model, images) == 0)
        sparsight.restore(model)
    for fewer, more in pairwise(staying):
        assert (fewer & ~more).sum() == 0
        assert fewer.sum() < more.sum()


def test_a_hook_that_changes_tokens_is_heeded_and_one_that_replaces_them_refused():
    model = make_model("augreg")
    images = make_images(model)
    sparsight.apply(model, make_plan(model))
    before = features(model, images)

    def double_in_place(_, args, output):
        output *= 2

    handle = blocks_of(model)[1].register_forward_hook(double_in_place)
    changed = features(model, images)
    handle.remove()
    assert (changed - before).abs().max() > 1e-3
    blocks_of(model)[2].register_forward_hook(lambda _, args, output: output * 2)
    with pytest.raises(sparsight.SparsightError, match="layer 3 does not know which tokens"):
        features(model, images)


def test_half_precision_and_gradients():
    model = make_model("dinov3")
    images, plan = make_images(model), make_plan(model)
    sparsight.apply(model, plan)
    wanted = features(model, images)
    family_in(model).features(model, images).square().mean().backward()
    graded = model.blocks[0].attn.qkv.weight.grad
    assert torch.isfinite(graded).all()
    assert graded.abs().sum() > 0
    got = features(model.bfloat16(), images.bfloat16()).float()
    # bfloat16 moves some tokens across the border of the kept set, and keeps 8 bits of the others.
    assert (got - wanted).norm() < 0.3 * wanted.norm()


def test_a_saved_run_gives_the_same_model(tmp_path):
    model = make_model("dinov2_reg")
    images, plan = make_images(model), make_plan(model)
    wanted = features(sparsight.apply(model, plan), images)
    sparsight.save(model, tmp_path)
    sparsight.restore(model)
    assert sparsight.load(tmp_path) == plan
    assert torch.equal(features(sparsight.apply(model, tmp_path), images), wanted)


def test_few_tokens_and_masks_run_dense():
    model = make_model("augreg")
    images = make_images(model)
    dense = features(model, images)
    sparsight.apply(model, make_plan(model, min_tokens=65))
    assert torch.equal(features(model, images), dense)
    assert not stages_left(model, images).any()
    sparsight.restore(model)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 5] = -torch.inf
    with torch.no_grad():
        wanted = model.forward_features(images, attn_mask=mask)
        got = sparsight.apply(model, make_plan(model)).forward_features(images, attn_mask=mask)
    assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"rho": 0.0}, "greater than 0"),
        ({"rho": 1.01}, "less than or equal to 1"),
        ({"rho": float("nan")}, "finite|greater than 0"),
        ({"stages": (3, 1)}, "must rise"),
        ({"stages": ()}, "stages is empty"),
        ({"stages": (0, 2)}, "no token can leave before layer 0"),
        ({"retention": 0.5}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, reason):
    with pytest.raises(sparsight.ArgumentError, match=reason):
        sparsight.SPOT(**settings)


@pytest.mark.parametrize("name", WINDOWED)
def test_a_model_with_windows_is_refused(name):
    with pytest.raises(sparsight.PlanError, match="SPOT needs global attention in every layer"):
        sparsight.apply(WINDOWED[name](), sparsight.SPOT())


def test_what_does_not_fit_is_refused_before_anything_changes():
    model = make_model("augreg")
    with pytest.raises(sparsight.PlanError, match=r"no tensor 'spot\.1\.inner\.weight': SPOT ranks by"):
        sparsight.apply(model, sparsight.SPOT())
    with pytest.raises(sparsight.PlanError, match="names layer 4, but this model has layers 0 to 3"):
        sparsight.apply(model, sparsight.SPOT(stages=(2, 4)))
    with pytest.raises(sparsight.PlanError, match="no tokens leave this model in stages"):
        stages_left(model, make_images(model))
    assert applied(model) is None


def test_quarters_of_the_depth():
    layers = tuple(range(12))
    resolved = sparsight.SPOT(history=2).resolved(layers, 12)
    assert resolved.stages == (3, 6, 9)
    assert resolved.changed_layers(layers) == layers
    assert resolved.noting(6) == (3, 4, 5)
    assert sparsight.SPOT(history=0).resolved(layers, 12).changed_layers(layers) == layers[2:]
    assert resolved.retained(8) == pytest.approx(0.7**2)


def test_policed_attention_hides_keys_and_has_a_gradient():
    q, k, v = random_qkv(2, 3, 37, 12)
    keep = (torch.rand(2, 37, generator=torch.Generator().manual_seed(1)) < 0.6).float()
    keep.requires_grad_(True)
    got = policed_attention(q, k, v, keep)
    scores = (q @ k.transpose(-2, -1) * 12**-0.5).exp() * (keep.detach() + HIDDEN)[:, None, None]
    torch.testing.assert_close(got, scores @ v / scores.sum(-1, keepdim=True), atol=1e-5, rtol=1e-5)
    (got * v).sum().backward()
    gone = keep.detach() == 0
    # Seeing a hidden key again would change the output as much as seeing any other.
    assert keep.grad[gone].abs().mean() > 0.1 * keep.grad[~gone].abs().mean()


def pictures_for(model, count=3):
    return list(make_images(model, batch=count))


def learnable(model, **settings):
    return at(make_plan(model, stages=(2,), rho=0.5, **settings), rho=0.5)


def sparse_pictures(model):
    """Four pictures that are blank but for a quarter of the patches, and where that is."""
    images = make_images(model, batch=4)
    height, width = family_in(model).patch_px(model)
    content = torch.rand(4, 9, 7, generator=torch.Generator().manual_seed(5)) < 0.25
    shown = content.repeat_interleave(height, 1).repeat_interleave(width, 2)
    return list(3 * images * shown[:, None]), content.flatten(1)


def settings_for_test(**changes):
    usual = {"steps": 40, "rho": (0.5, 0.5), "batch": 2, "learning_rate": 1e-2}
    return sparsight.RelevanceTraining(**(usual | changes))


@pytest.mark.parametrize("train", ["predictors", "blocks"])
def test_a_half_model_learns_relevance_in_float32_and_runs_in_its_own(train):
    model = make_model("augreg").bfloat16()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    config = sparsight.SPOT(stages=(1, 2), min_tokens=0, hidden=8, sample=9)
    pictures = list(make_images(make_model("augreg"), 3, (9, 8)))
    plan, losses = sparsight.fit_relevance(
        model, Plan(methods=(config,)), pictures, settings_for_test(steps=3, train=train)
    )
    assert all(math.isfinite(loss) for loss in losses)
    assert all(value.dtype == torch.float32 for value in plan.weights.values())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    sparsight.apply(model, plan)
    with torch.no_grad():
        found = features(model, pictures[0][None].bfloat16())
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()


def test_training_lowers_the_loss_and_every_network_learns():
    model = make_model("hf_dinov3")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    config = sparsight.SPOT(stages=(1, 2), min_tokens=0, hidden=8, sample=9)
    plan, losses = sparsight.fit_relevance(
        model, Plan(methods=(config,)), sparse_pictures(model)[0], settings_for_test(learning_rate=3e-2)
    )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert applied(model) is None
    # At first all tokens are as likely to stay; this model's tokens differ much in what they are worth.
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    brought = method_of(config).tensors(config.resolved((0, 1, 2, 3), 4), model, family_of(model))
    shapes = {tensor_name("spot", stage, k): v for stage, of in brought.items() for k, v in of.items()}
    assert set(shapes) == set(plan.weights)
    start = learning._initial(shapes, seed=0)
    assert all(not torch.equal(plan.weights[key], start[key]) for key in shapes)


@pytest.mark.parametrize("name", ["augreg", "siglip"])
def test_trained_relevance_keeps_what_stands_out(name):
    model = make_model(name)
    pictures, content = sparse_pictures(model)
    config = sparsight.SPOT(stages=(1, 2), min_tokens=0, hidden=8, sample=9, rho=0.5)
    plan, _ = sparsight.fit_relevance(model, Plan(methods=(config,)), pictures, settings_for_test())
    sparsight.apply(model, plan)
    prefix = family_in(model).prefix_tokens(model)
    stays = stages_left(model, torch.stack(pictures))[:, prefix:] == 0
    # A quarter of the tokens stays to the end.  A blind choice would keep a quarter of the 67 with
    # content too, with a standard deviation of 0.053: this is three of them more.
    assert content.sum() == 67
    assert stays[content].float().mean() > 0.41


def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path, monkeypatch):
    model = make_model("dinov2_reg")
    pictures, plan = pictures_for(model, 3), make_plan(model)
    settings = settings_for_test(steps=12, train="blocks")
    straight, losses = sparsight.fit_relevance(model, plan, pictures, settings)
    assert "model.blocks.3.mlp.fc1.weight" in straight.weights
    usual = training.schedule

    def interrupt_at_7(step, steps):
        if step == 7:
            raise KeyboardInterrupt
        return usual(step, steps)

    monkeypatch.setattr(training, "schedule", interrupt_at_7)
    with pytest.raises(KeyboardInterrupt):
        sparsight.fit_relevance(model, plan, pictures, settings, tmp_path)
    monkeypatch.undo()
    resumed, again = sparsight.fit_relevance(model, plan, pictures, settings, tmp_path)
    assert again == losses
    assert resumed == straight


def test_a_loss_of_the_task_joins_in():
    model = make_model("augreg")
    pictures = pictures_for(model, 4)
    labelled = [(picture, torch.tensor(n % 2)) for n, picture in enumerate(pictures)]
    given = []

    def task_loss(found, truths):
        given.append(truths.tolist())
        return torch.nn.functional.cross_entropy(found[:, 0, :2], truths)

    settings = settings_for_test(steps=2)
    plain = sparsight.fit_relevance(model, learnable(model), pictures, settings)[1]
    joined = sparsight.fit_relevance(model, learnable(model), labelled, settings, task_loss=task_loss)[1]
    assert sorted(chain(*given)) == [0, 0, 1, 1]
    assert all(one > other for one, other in zip(joined, plain, strict=True))


def test_only_spot_is_trained_so_and_only_within_its_range():
    model = make_model("augreg")
    with pytest.raises(sparsight.PlanError, match="for SPOT alone, and the plan has sve"):
        sparsight.fit_relevance(model, Plan(methods=(sparsight.SVE(),)), pictures_for(model))
    with pytest.raises(sparsight.ArgumentError, match="rho is a range"):
        sparsight.RelevanceTraining(rho=(0.9, 0.5))


def test_copies_are_independent():
    model = make_model("hf_dinov2_reg")
    images = make_images(model)
    sparsight.apply(model, make_plan(model))
    wanted, twin = features(model, images), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(features(twin, images), wanted)
