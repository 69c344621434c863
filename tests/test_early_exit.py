"""Early exit of tokens: who goes on, what the others are completed to, and how a bound decides."""

import itertools
import math

import pytest
import torch
from conftest import WINDOWED, blocks_of, make_images, make_model, plan_of
from test_apply import (
    assert_sparse_equals,
    features,
    mapped_by_hand,
    routed_mlp,
    scored,
    sparse_block,
    tensors_of,
)
from test_reduced import attend, pick
from torch.nn.functional import layer_norm

import sparsight
from sparsight.attach import applied
from sparsight.families import family_of
from sparsight.methods.bounds import TOKENS_A_STEP as STEP
from sparsight.methods.reduced import CARRY
from sparsight.ops.partition import kept_count
from sparsight.stages.observe import outputs_of, stages_left

EVERY = 4  # `sampled` reads one query in so many
SCORES = ("standout", "magnitude", "map-error", "class-attention", "sampled", "exact")


def leaving(**settings):
    usual = {"after": (0, 1), "keep": (0.7, 0.4), "taps": (2,), "sample_every": EVERY, "min_tokens": 0}
    return sparsight.EarlyExit(**usual | settings)


def exits(family, config, plan, prefix, shown):
    """Hooks, by layer, for one image: tokens leave, and are completed, in Python lists of places."""
    here, left = [], []

    def hook_for(layer):
        def hook(block, args, kwargs, output):
            x = args[0]
            own = tensors_of(plan, "early-exit", layer)
            tables = {k: kwargs[k] for k in family.per_token if kwargs.get(k) is not None}
            if not here:
                here.append(list(range(x.shape[1])))
            if layer - 1 in config.exits:
                n, rows = layer_norm(x, x.shape[2:]), here[0]
                qk = attend(family, block, x[:, rows], pick(tables, rows, prefix))[1:]
                given = x if config.score == "magnitude" else n
                score = scored(config.score, given[:, rows], prefix, own, EVERY, qk)[0]
                score[:prefix] = torch.inf
                count = kept_count(x.shape[1], config.kept_after(layer - 1), prefix)
                best = sorted(range(len(rows)), key=lambda place: -score[place].item())[:count]
                here[0] = sorted(rows[place] for place in best)
                gone = sorted(set(rows) - set(here[0]))
                left.append((gone, x[:, gone], own))
            rows, new = here[0], x.clone()
            tokens = attend(family, block, x[:, rows], pick(tables, rows, prefix))[0]
            new[:, rows] = family.parts.mlp(block, tokens)
            for gone, last, fitted in left:
                if (table := fitted.get(f"map.{layer}")) is not None:
                    new[:, gone] = last + mapped_by_hand(layer_norm(last, last.shape[2:]), table)
            shown.setdefault(layer, []).append(new)
            return new

        return hook

    return {layer: hook_for(layer) for layer in config.changed_layers(range(4))}


def by_hand(model, plan, images):
    """The final features, and by layer what each block after the first exit returns."""
    family = family_of(model)
    blocks, prefix = family.blocks(model), family.prefix_tokens(model)
    results, shown = [], {}
    for image in images:
        hooks = []
        if routing := plan.find(sparsight.MLPRouting):
            hooks += [
                (blocks[n].mlp, hook, False) for n, hook in routed_mlp(routing, plan, prefix).items()
            ]
        if sve := plan.find(sparsight.SVE):
            by_layer = sparse_block(family, sve, plan, prefix)
            hooks += [(blocks[n], hook, True) for n, hook in by_layer.items()]
        config = plan.one(sparsight.EarlyExit)
        by_layer = exits(family, config, plan, prefix, shown)
        hooks += [(blocks[n], hook, True) for n, hook in by_layer.items()]
        handles = [part.register_forward_hook(hook, with_kwargs=more) for part, hook, more in hooks]
        results.append(features(model, image[None]))
        for handle in handles:
            handle.remove()
    return torch.cat(results), {layer: torch.cat(parts) for layer, parts in shown.items()}


@pytest.mark.parametrize("score", SCORES)
def test_equals_the_reference_by_hand_at_the_end_and_at_taps(model, score):
    images = make_images(model)
    if score == "class-attention" and family_of(model).prefix_tokens(model) == 0:
        with pytest.raises(sparsight.PlanError, match=r"asks the class token .* this model has none"):
            sparsight.apply(model, plan_of(model, leaving(score=score)))
        assert applied(model) is None
        return
    plan = plan_of(model, leaving(score=score))
    assert {name for name in plan.weights if "map" in name} == {
        "early-exit.1.map.2", "early-exit.1.map.3", "early-exit.2.map.2", "early-exit.2.map.3"
    }  # fmt: skip
    (wanted, shown), dense = by_hand(model, plan, images), features(model, images)
    sparsight.apply(model, plan)
    with outputs_of(model, range(1, 4)) as outputs:
        got = features(model, images)
    assert_sparse_equals(wanted, got, dense)
    for layer, tokens in shown.items():
        assert (outputs[layer] - tokens).abs().max() <= 1e-5 * tokens.abs().max()


def test_without_a_map_who_has_left_keeps_its_last_value(model):
    images = make_images(model)
    plan = plan_of(model, leaving(completion="last", taps=()))
    assert not plan.weights
    wanted, dense = by_hand(model, plan, images)[0], features(model, images)
    got = features(sparsight.apply(model, plan), images)
    assert_sparse_equals(wanted, got, dense)


def test_sparse_attention_before_and_routed_mlps_after_the_exit(model):
    images = make_images(model)
    sve = sparsight.SVE(layers=(0, 1), groups=((0, 1),), keep=1 / 4, completion="map", min_tokens=0,
                        sample_every=EVERY)  # fmt: skip
    leave = leaving(after=(1,), keep=0.5)
    routing = sparsight.MLPRouting(layers=(1, 2, 3), keep=1 / 3, score="map-error", min_tokens=0)
    got, alone = {}, features(sparsight.apply(model, plan_of(model, leave)), images)
    sparsight.restore(model)
    for methods in ((sve, leave), (leave, routing), (sve, leave, routing)):
        plan = plan_of(model, *methods)
        wanted = by_hand(model, plan, images)[0]
        got[methods] = features(sparsight.apply(model, plan), images)
        sparsight.restore(model)
        assert_sparse_equals(wanted, got[methods], alone)
    for one, other in itertools.combinations(got.values(), 2):
        assert (one - other).abs().max() > 1e-3 * one.abs().max()  # each method does its part


def test_counts_kept_sets_and_prefix_tokens(model):
    images, family = make_images(model), family_of(model)
    prefix, plan = family.prefix_tokens(model), plan_of(model, leaving())
    sparsight.apply(model, plan)
    with outputs_of(model, range(4)) as outputs:
        n = features(model, images).shape[1]
    before = None
    for layer, keep in ((1, 0.7), (2, 0.4), (3, 0.4)):
        rows = getattr(outputs[layer], CARRY).rows
        assert rows.shape == (2, kept_count(n, keep, prefix))
        assert rows[:, :prefix].tolist() == [list(range(prefix))] * 2
        assert (rows.diff(dim=1) > 0).all()  # in their own order, each once
        assert before is None or all(
            set(b) <= set(a) for a, b in zip(before, rows.tolist(), strict=True)
        )
        before = rows.tolist()
    stages = stages_left(model, images)
    first, second = (kept_count(n, keep, prefix) for keep in (0.7, 0.4))
    assert [(stages == k).sum(1).tolist() for k in (1, 2)] == [[n - first] * 2, [first - second] * 2]
    normal = layer_norm(outputs[0], outputs[0].shape[2:])[:, prefix:]
    score = (normal - normal.mean(1, keepdim=True)).square().sum(2)
    kept = stages[:, prefix:] != 1
    for image in range(2):
        assert score[image][kept[image]].min() > score[image][~kept[image]].max()


def test_a_batch_of_two_equals_two_batches_of_one(model):
    images = make_images(model)
    sparsight.apply(model, plan_of(model, leaving()))
    together = features(model, images)
    alone = torch.cat([features(model, images[:1]), features(model, images[1:])])
    # Matrix products of other shapes round differently; a different kept set would show as 1e-3.
    assert (together - alone).abs().max() <= 1e-5 * alone.abs().max()


@pytest.mark.parametrize("keep", [1.0, (1.0, 1.0)])
def test_keeping_everything_equals_dense(model, keep):
    images = make_images(model)
    dense = features(model, images)
    sparsight.apply(model, plan_of(model, leaving(keep=keep)))
    assert torch.equal(features(model, images), dense)


@pytest.mark.parametrize("name", ["augreg", "dinov2_reg", "dinov3"])
def test_forward_intermediates_has_completed_tokens_at_the_taps(name):
    model = make_model(name)
    images = make_images(model)
    plan = plan_of(model, leaving(after=(0,), keep=0.5, taps=(1, 2)))
    shown, prefix = by_hand(model, plan, images)[1], model.num_prefix_tokens
    sparsight.apply(model, plan)
    with torch.no_grad():
        _, found = model.forward_intermediates(images, indices=[1, 2, 3], output_fmt="NLC")
        maps = model.forward_intermediates(images, indices=[2], intermediates_only=True)
    for layer, tokens in zip((1, 2, 3), found, strict=True):
        wanted = shown[layer][:, prefix:]
        assert (tokens - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert torch.equal(maps[0].flatten(2).transpose(1, 2), found[1])


def test_transformers_hidden_states_have_completed_tokens_at_the_taps():
    model = make_model("hf_dinov2")
    images, plan = make_images(model), plan_of(model, leaving(after=(0,), keep=0.5, taps=(1, 2)))
    shown = by_hand(model, plan, images)[1]
    sparsight.apply(model, plan)
    with torch.no_grad():
        states = model(images, output_hidden_states=True).hidden_states
    for layer in (1, 2, 3):
        assert (states[layer + 1] - shown[layer]).abs().max() <= 1e-5 * shown[layer].abs().max()


# A bound in place of a count

GRID = (23, 18)  # 414 patches: between three and four steps of 128


def bounded(model, images, shares, calibrated=False):
    """Plans whose bound each of `shares` of the first image's patches exceeds, and who does."""
    config = leaving(after=(0,), score="map-error", taps=(), keep=0.5, bound="calibrated")
    plan, prefix = plan_of(model, config), family_of(model).prefix_tokens(model)
    with outputs_of(model, [0]) as outputs:
        features(model, images)
    n = layer_norm(outputs[0], outputs[0].shape[2:])
    score = scored("map-error", n, prefix, tensors_of(plan, "early-exit", 1))[:, prefix:]
    for share in shares:
        threshold = score[0].quantile(1 - share)
        if calibrated:
            yield plan.with_(weights={"early-exit.1.bound": threshold}), score >= threshold
        else:
            fixed = config.model_copy(update={"bound": (math.exp(threshold.item() / 2),)})
            yield plan.changed(fixed), score >= threshold


@pytest.mark.parametrize("calibrated", [False, True], ids=["given", "calibrated"])
@pytest.mark.parametrize("name", ["augreg", "dinov3", "siglip", "hf_dinov2_reg"])
def test_pictures_keep_what_the_bound_needs_in_steps(name, calibrated):
    model = make_model(name)
    images, prefix = make_images(model, grid=GRID), family_of(model).prefix_tokens(model)
    n, counts = GRID[0] * GRID[1] + prefix, set()
    for plan, needed in bounded(model, images, (0.001, 0.2, 0.5, 0.95), calibrated):
        sparsight.apply(model, plan)
        for batch, wanted in ((images, needed), (images[:1], needed[:1]), (images[1:], needed[1:])):
            stays = stages_left(model, batch) == 0
            most = [int(row.sum()) + prefix for row in wanted]  # each picture's own
            # A step that the need fills exactly is followed by one more; thresholds here hit none.
            assert all(count % STEP for count in most)
            assert stays.sum(1).tolist() == [min(n, math.ceil(count / STEP) * STEP) for count in most]
            assert stays[:, :prefix].all()
            assert (stays[:, prefix:] | ~wanted).all()
            counts.add(int(stays[0].sum()))
        sparsight.restore(model)
    assert {STEP, 2 * STEP, n} <= counts


def test_a_bound_that_nobody_reaches_keeps_one_step_and_one_that_all_exceed_keeps_all():
    model = make_model("augreg")
    images = make_images(model, grid=GRID)
    dense, plan = features(model, images), next(bounded(model, images, (0.5,)))[0]
    config = plan.one(sparsight.EarlyExit)
    sparsight.apply(model, plan.changed(config.model_copy(update={"bound": (1e30,)})))
    assert (stages_left(model, images) == 0).sum(1).tolist() == [STEP, STEP]
    sparsight.restore(model)
    sparsight.apply(model, plan.changed(config.model_copy(update={"bound": (1e-30,)})))
    # Nobody has left: the host's own blocks on the tokens as they are.
    assert torch.equal(features(model, images), dense)


# What is refused


def test_a_hook_that_changes_tokens_is_heeded_and_one_that_replaces_them_refused():
    model = make_model("augreg")
    images = make_images(model)
    sparsight.apply(model, plan_of(model, leaving(after=(0,), keep=0.5)))
    before = features(model, images)

    def double_in_place(_, args, output):
        output *= 2

    handle = blocks_of(model)[1].register_forward_hook(double_in_place)
    changed = features(model, images)
    handle.remove()
    assert (changed - before).abs().max() > 1e-3
    handle = blocks_of(model)[1].register_forward_hook(lambda _, args, output: output * 2)
    with pytest.raises(sparsight.SparsightError, match=r"layer 2 does not know which tokens have left"):
        features(model, images)
    handle.remove()
    blocks_of(model)[0].register_forward_hook(lambda _, args, output: output * 2)  # before any has left
    assert (features(model, images) - before).abs().max() > 1e-3


def test_attention_maps_are_refused_and_masks_run_dense():
    model = make_model("hf_vit")
    images = make_images(model)
    sparsight.apply(model, plan_of(model, leaving()))
    model.set_attn_implementation("eager")
    with pytest.raises(sparsight.SparsightError, match="layer 1 has no attention map of all tokens"):
        model(images, interpolate_pos_encoding=True, output_attentions=True)
    other = make_model("augreg")
    images, mask = make_images(other), torch.zeros(1, 1, 64, 64)
    mask[..., 5] = -torch.inf
    with torch.no_grad():
        wanted = other.forward_features(images, attn_mask=mask)
        sparsight.apply(other, plan_of(other, leaving()))
        assert torch.equal(other.forward_features(images, attn_mask=mask), wanted)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"after": ()}, "after is empty"),
        ({"after": (2, 1)}, "must rise"),
        ({"taps": (3, 2)}, "taps must rise"),
        ({"keep": 0}, "greater than 0"),
        ({"keep": (0.5, 0.4)}, "keep has 2 values for the layers None"),
        ({"after": (0, 1), "keep": (0.4, 0.5)}, "does not rise"),
        ({"bound": 0.2}, "set score='map-error'"),
        ({"bound": (0.2, 0.1), "score": "map-error"}, "bound has 2 values"),
        ({"bound": -1, "score": "map-error"}, "greater than 0"),
        ({"completion": "last", "taps": (3,)}, "need completion='map'"),
        ({"completion": "last", "score": "map-error"}, "need completion='map'"),
        ({"score": "rollout"}, "no score is called 'rollout'; there are exact"),
        ({"afterwards": 1}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, reason):
    with pytest.raises(sparsight.ArgumentError, match=reason):
        sparsight.EarlyExit(**settings)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"after": (3,)}, "after layer 3 .*left to skip"),
        ({"after": (4,)}, "names layer 4, but this model has layers 0 to 3"),
        ({"after": (1,), "taps": (4,)}, "names layer 4, but this model has layers 0 to 3"),
        ({"after": (1,), "taps": (1, 2)}, "no token has left by layer 1"),
        ({}, r"no tensor 'early-exit\.1\.map\.3': .* run sparsight\.optimize"),
        ({"score": "map-error"}, r"no tensor 'early-exit\.1\.error': .* run sparsight\.optimize"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(settings, reason):
    model = make_model("augreg")
    types = [type(part) for part in model.modules()]
    with pytest.raises(sparsight.PlanError, match=reason):
        sparsight.apply(model, sparsight.EarlyExit(**settings))
    assert [type(part) for part in model.modules()] == types
    assert applied(model) is None


def test_maps_of_another_width_are_refused():
    model, other = make_model("augreg"), make_model("augreg", embed_dim=96)
    with pytest.raises(sparsight.PlanError, match=r"map.2' has shape \(97, 96\), not \(49, 48\): it"):
        sparsight.apply(model, plan_of(other, leaving()))
    assert applied(model) is None


@pytest.mark.parametrize("name", WINDOWED)
def test_a_model_with_windows_is_refused(name):
    with pytest.raises(sparsight.PlanError, match="early exit needs global attention in every layer"):
        sparsight.apply(WINDOWED[name](), sparsight.EarlyExit())


def test_a_sixth_of_the_depth_and_equal_steps():
    layers = tuple(range(12))
    resolved = sparsight.EarlyExit(taps=(5, 11)).resolved(layers, 12)
    assert resolved.after == (2,)
    assert resolved.changed_layers(layers) == layers[3:]
    assert resolved.taps_of(2, 12) == (5, 11)
    several = sparsight.EarlyExit(after=(2, 4, 6), keep=0.4, taps=(5,)).resolved(layers, 12)
    assert [several.kept_after(n) for n in (1, 2, 4, 6, 11)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.4])
    assert [several.taps_of(n, 12) for n in (2, 4, 6)] == [(5, 11), (5, 11), (11,)]
