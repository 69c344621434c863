"""Plans of several methods: what goes together, and what excludes what, before anything is changed."""

import pytest
import torch
from changed_models import facts
from conftest import make_images, make_model, make_timm_sam2, make_timm_swin, plan_of
from test_apply import features, make_plan
from test_apply import reference as masked_reference

import sparsight
from sparsight.attach import applied
from sparsight.inplace import is_changed

SVE, EXIT = sparsight.SVE, sparsight.EarlyExit
TAKING = {  # methods that take tokens out of the blocks of a model of four
    "early-exit": EXIT(after=(1,)), "tome": sparsight.ToMe(), "cls-topk": sparsight.ClsTopK(stages=(2,)),
    "spot": sparsight.SPOT(stages=(2,)), "asvit": sparsight.ASViT(stages=(3,), budget=0.9),
}  # fmt: skip


def refused(model, methods, reason):
    before = facts(model)
    with pytest.raises(sparsight.PlanError, match=reason):
        sparsight.apply(model, methods)
    assert facts(model) == before
    assert applied(model) is None


@pytest.mark.parametrize("kind", TAKING)
def test_sparse_attention_where_tokens_have_left_is_refused(kind):
    model, name = make_model("augreg"), type(TAKING[kind]).__name__
    for methods in ([SVE(layers="all"), TAKING[kind]], [TAKING[kind], SVE(layers=(0, 3))]):
        refused(model, methods, rf"SVE works where all tokens are .* and {name} changes layer \d")


def test_two_methods_that_take_tokens_out_are_refused():
    model, kinds = make_model("augreg"), list(TAKING)
    for one, other in zip(kinds, [*kinds[1:], kinds[0]], strict=True):
        reason = rf"{type(TAKING[one]).__name__} and {type(TAKING[other]).__name__} both take tokens"
        refused(model, [TAKING[one], TAKING[other]], reason)


LOCAL, PEAKS = sparsight.LocalAttention, sparsight.DensityPeaks(after=1, min_tokens=0)


def test_two_kinds_of_attention_in_one_layer_are_refused():
    model = make_model("augreg")
    for methods in ([SVE(layers=(0, 1)), LOCAL(layers=(1, 2))], [LOCAL(), SVE(layers=(3,))]):
        refused(model, methods, r"both change the attention of layer [13]: name other layers")
    with pytest.raises(sparsight.PlanError, match="LocalAttention leaves no layer to SVE"):
        sparsight.optimize(model, list(make_images(model)), [SVE(), LOCAL()])
    refused(model, [LOCAL(), PEAKS], "LocalAttention works where all tokens are still there")
    refused(model, [PEAKS, sparsight.Bypass(completion="last")], "both take tokens or windows out")


def test_patterns_and_merging_go_with_the_others():
    model = make_model("augreg")
    images, before = make_images(model), facts(model)
    local = LOCAL(layers=(0,), size=4, completion="map", min_tokens=0)
    sve = SVE(layers=(1,), keep=1 / 4, score="lattice", min_tokens=0)
    routing = sparsight.MLPRouting(layers=(0, 2), keep=1 / 3, min_tokens=0)
    got = {}
    for methods in ((local, sve), (local, sve, PEAKS), (local, sve, PEAKS, routing)):
        sparsight.apply(model, plan_of(model, *methods))
        got[methods] = features(model, images)
        alone = torch.cat([features(model, image[None]) for image in images])
        assert (got[methods] - alone).abs().max() <= 2e-5 * alone.abs().max()  # float32, other shapes
        changed = {name for name, part in model.named_modules() if is_changed(part)}
        assert {"patch_embed.proj", "blocks.0.attn", "blocks.1.attn"} <= changed
        sparsight.restore(model)
        assert facts(model) == before
    first, *others = got.values()
    assert all((first - other).abs().max() > 1e-3 * first.abs().max() for other in others)


@pytest.mark.parametrize("config", [SVE(layers=(0,)), sparsight.MLPRouting(layers=(1,)), EXIT()])
def test_the_same_method_twice_is_refused(config):
    refused(
        make_model("augreg"), [config, config], f"the plan has {type(config).__name__} twice: name all"
    )


def test_methods_for_other_attention_are_refused_in_a_plan_of_several():
    refused(
        make_timm_swin(),
        [sparsight.SparseViT(), sparsight.MLPRouting()],
        "MLPRouting needs global",
    )
    refused(
        make_timm_sam2(), [SVE(layers=(5,)), EXIT()], "early exit needs global attention in every layer"
    )
    lower = sparsight.LowerResolution()
    refused(make_model("augreg"), [SVE(layers=(0,)), lower], "lower-resolution changes the pictures")


def test_a_tensor_that_one_of_several_methods_lacks_is_named():
    model = make_model("augreg")
    sve = SVE(layers=(0,), completion="map")
    plan = plan_of(model, sve, EXIT(after=(1,)), sparsight.MLPRouting(layers=(2,)))
    for name in plan.weights:
        fewer = {key: value for key, value in plan.weights.items() if key != name}
        refused(model, sparsight.Plan(methods=plan.methods).with_(weights=fewer), f"no tensor '{name}'")
    bad = plan.with_(weights={"early-exit.2.map.3": torch.full((49, 48), torch.inf)})
    refused(model, bad, "tensor 'early-exit.2.map.3' of the plan has values that are not finite")
    wide = plan.with_(weights={"mlp-routing.2.map": torch.zeros(97, 96)})
    refused(model, wide, r"'mlp-routing.2.map' has shape \(97, 96\), not \(49, 48\)")
    sparsight.apply(model, plan)


@pytest.mark.parametrize("kind", [kind for kind in TAKING if kind != "tome"])
def test_each_method_changes_its_own_modules_and_all_come_back(kind):
    model = make_model("augreg")
    images, before = make_images(model), facts(model)
    dense = features(model, images)
    first = {"spot": 0, "early-exit": 2, "cls-topk": 2, "asvit": 2}[kind]  # layer that is changed for it
    methods = [TAKING[kind], sparsight.MLPRouting(layers=(1, 3))]
    if first:
        methods.append(SVE(layers=(0, 1)))
    plan = plan_of(model, *[method.at_any_size() for method in methods])
    sparsight.apply(model, plan)
    changed = {name for name, part in model.named_modules() if is_changed(part)}
    assert changed == {
        *(f"blocks.{n}" for n in range(first, 4)), "blocks.1.mlp", "blocks.3.mlp",
        *(f"blocks.{n}.attn" for n in (0, 1) if first),
    }  # fmt: skip
    assert applied(model).plan == plan
    assert (features(model, images) - dense).abs().max() > 1e-3 * dense.abs().max()
    sparsight.restore(model)
    assert facts(model) == before
    assert torch.equal(features(model, images), dense)


def test_each_method_has_its_own_crossover():
    model = make_model("augreg")
    images, n = make_images(model), 9 * 7 + 1
    sve, routing = SVE(layers=(0, 1), keep=1 / 4), sparsight.MLPRouting(layers=(1, 2), keep=1 / 3)
    for limits in ((0, n + 1), (n + 1, 0)):
        both = plan_of(
            model,
            sve.model_copy(update={"min_tokens": limits[0]}),
            routing.model_copy(update={"min_tokens": limits[1]}),
        )
        kind = SVE if limits[0] == 0 else sparsight.MLPRouting
        wanted = masked_reference(model, both.with_(methods=[both.one(kind)]), images)
        got = features(sparsight.apply(model, both), images)
        sparsight.restore(model)
        assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()  # float32, as in test_apply.py


def test_one_method_alone_and_in_a_list_are_the_same_plan():
    model = make_model("augreg")
    plan = make_plan(model)
    for what in (plan.sve, [plan.sve], (plan.sve,)):
        sparsight.apply(model, what)
        assert applied(model).plan.methods == plan.methods
        sparsight.restore(model)
