"""The invariants that hold for every family and every way of scoring: apply, run, restore."""

import copy
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ALL_MODELS, SWINS, WINDOWED, blocks_of, make_images, make_model, run_features

import sparsight
from sparsight.attach import applied, family_in
from sparsight.families import FAMILIES
from sparsight.methods import map_name, projector_name
from sparsight.methods.sve import score
from sparsight.ops import partition
from sparsight.ops.attention import masked_attention
from sparsight.plan import Plan

SCORERS = ("exact", "sampled", "linear")
GROUPS = {"alone": (), "grouped": ((0, 1, 2),)}


def make_plan(model, scorer="sampled", groups=(), **settings):
    """The first three global layers sparse at any size, with made-up projectors where needed."""
    layers = family_in(model).global_layers(model)[:3]
    settings = {"layers": layers, "keep": 1 / 4, "sample_every": 4, "min_tokens": 0} | settings
    config = sparsight.SVE(scorer=scorer, groups=groups, **settings)
    generator = torch.Generator().manual_seed(3)
    weights = {
        projector_name(n): torch.randn(family_in(model).dim(blocks_of(model)[n]), generator=generator)
        for n in config.layers
    }
    maps = {
        map_name(n): 0.1 * torch.randn(len(w) + 1, len(w), generator=generator)
        for n, w in zip(config.layers, weights.values(), strict=True)
    }
    brought = (weights if scorer == "linear" else {}) | (maps if config.mlp_rest == "linear" else {})
    return Plan(method=config).with_(weights=brought or None)


def reference(model, plan, images, outputs=None):
    """The sparse model from the equations: a mask for every layer, tokens in their own order.

    The outputs of the sparse layers are added to the list `outputs`.
    """
    from sparsight.families import family_of

    family, config, order = family_of(model), plan.method, {}
    parts, prefix = family.parts, family.prefix_tokens(model)

    def sparse(layer):
        def hook(block, args, kwargs, output):
            tables = {k: kwargs[k] for k in family.per_token if kwargs.get(k) is not None}
            x = args[0].flatten(1, -2)
            h = parts.norm(block, x)
            q, k, v = parts.qkv(block, h, **tables)
            if layer in config.followers():
                order[layer] = order[config.followers()[layer]]
            elif config.scorer == "linear":
                ranking = score.linear(h, plan.weights[projector_name(layer)])
                order[layer] = partition.rank(ranking, prefix)
            elif config.scorer == "exact":
                full = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
                order[layer] = partition.rank(full.mean((1, 2)), prefix)
            else:
                ranking = score.sampled(q, k, prefix, config.sample_every)
                order[layer] = partition.rank(ranking, prefix)
            n = x.shape[1]
            fractions = config.kept_at(layer)
            nq, nk, through = (partition.kept_count(n, f, prefix) for f in fractions)
            out = masked_attention(q, k, v, order[layer], nq, nk)
            y = parts.residual(block, x, parts.merge(block, out, h))
            ranking, rest = order[layer], y
            if config.mlp_by == "salience":
                normal = (y - y.mean(2, keepdim=True)) / (y.var(2, False, keepdim=True) + 1e-5).sqrt()
                far = (normal - normal[:, prefix:].mean(1, keepdim=True)).square().sum(2)
                ranking = partition.rank(far, prefix)
            if config.mlp_rest == "linear" and through < n:
                normal = torch.nn.functional.layer_norm(y, y.shape[2:])
                table = plan.weights[map_name(layer)]
                rest = y + normal @ table[:-1] + table[-1]
            routed = partition.inverse(ranking)[:, :, None] < through  # rank below the count
            y = torch.where(routed, parts.mlp(block, y), rest).view(args[0].shape)
            if outputs is not None:
                outputs.append(y)
            return y

        return hook

    blocks = family.blocks(model)
    handles = [blocks[n].register_forward_hook(sparse(n), with_kwargs=True) for n in config.layers]
    with torch.no_grad():
        features = family.features(model, images)
    for handle in handles:
        handle.remove()
    return features


def features(model, images):
    with torch.no_grad():
        return run_features(model, images)


def intermediates(model, images):
    """Patch tokens after each block, as the library itself gives them out."""
    if hasattr(model, "forward_intermediates"):
        with torch.no_grad():
            _, shown = model.forward_intermediates(images, output_fmt="NLC", return_prefix_tokens=True)
        return [layer[0] if model.num_prefix_tokens else layer for layer in shown]
    outputs, prefix = [], family_in(model).prefix_tokens(model)
    handle = model.register_forward_hook(lambda _, args, output: outputs.append(output))
    model.config.output_hidden_states = True
    features(model, images)
    model.config.output_hidden_states = False
    handle.remove()
    return [layer[:, prefix:] for layer in outputs[0].hidden_states[1:]]


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("scorer", SCORERS)
def test_partitioned_equals_masked_reference(model, scorer, groups):
    images = make_images(model)
    plan = make_plan(model, scorer, groups, keep_queries=1 / 6)
    wanted, dense = reference(model, plan, images), features(model, images)
    got = features(sparsight.apply(model, plan), images)
    # Four blocks of float32 with outputs of size one to ten.  Sparse and dense differ a thousand times
    # more, so that a wrong kept set cannot pass.
    scale = wanted.abs().max()
    assert (got - wanted).abs().max() <= 1e-5 * scale
    assert (got - dense).abs().max() > 1e-3 * scale


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("keep", [1 / 4, (1 / 4, 1 / 2, 1.0)], ids=["alike", "each"])
@pytest.mark.parametrize("way", [("attention", "residual"), ("salience", "linear")], ids="-".join)
def test_only_some_tokens_go_through_the_mlp(model, groups, keep, way):
    images = make_images(model)
    routing = {"mlp_keep": (1 / 3, 1.0, 1 / 5), "mlp_by": way[0], "mlp_rest": way[1]}
    plan = make_plan(model, "sampled", groups, keep=keep, **routing)
    wanted = reference(model, plan, images)
    all_through = plan.with_(method=plan.sve.model_copy(update={"mlp_keep": 1.0}))
    unrouted = features(sparsight.apply(copy.deepcopy(model), all_through), images)
    got = features(sparsight.apply(model, plan), images)
    scale = wanted.abs().max()
    assert (got - wanted).abs().max() <= 1e-5 * scale  # as in the test above
    assert (got - unrouted).abs().max() > 1e-3 * scale


@pytest.mark.parametrize("scorer", SCORERS)
def test_keeping_everything_equals_dense(model, scorer):
    images = make_images(model)
    dense = features(model, images)
    plan = make_plan(model, scorer, GROUPS["grouped"], keep=1.0)
    assert torch.equal(features(sparsight.apply(model, plan), images), dense)


def test_keeping_all_but_one_key_goes_through_the_sparse_path(model):
    images = make_images(model, batch=1)
    n = features(model, images).shape[1]
    dense = features(model, images)
    plan = make_plan(model, "exact", keep=(n - 1) / n, keep_queries=(n - 1) / n)
    got = features(sparsight.apply(model, plan), images)
    # One query of each layer does without one key, the least attended: a small change, not none.
    assert 0 < (got - dense).norm() / dense.norm() < 0.05


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_a_batch_of_two_equals_two_batches_of_one(model, groups):
    images = make_images(model)
    sparsight.apply(model, make_plan(model, groups=groups))
    together = features(model, images)
    alone = torch.cat([features(model, images[:1]), features(model, images[1:])])
    # Matrix products of other shapes round differently; a different kept set would show as 1e-3.
    assert (together - alone).abs().max() <= 1e-5 * alone.abs().max()


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_what_is_exposed_is_in_original_order(model, groups):
    images = make_images(model)
    plan = make_plan(model, "exact", groups)
    expected, hooked = [], []
    reference(model, plan, images, expected)
    sparsight.apply(model, plan)
    shown = intermediates(model, images)
    for block in blocks_of(model):
        block.register_forward_hook(lambda _, args, output: hooked.append(output))
    features(model, images)
    prefix = family_in(model).prefix_tokens(model)
    for layer, wanted in enumerate(expected):
        scale = wanted.abs().max()
        assert (shown[layer] - wanted[:, prefix:]).abs().max() <= 2e-5 * scale
        assert (hooked[layer] - wanted).abs().max() <= 2e-5 * scale


@pytest.mark.parametrize("name", ["dinov2_reg", "hf_dinov3"])
def test_a_hook_that_changes_tokens_in_a_group_is_heeded(name):
    model = make_model(name)
    images = make_images(model)
    sparsight.apply(model, make_plan(model, groups=GROUPS["grouped"]))
    before = features(model, images)

    def double_in_place(_, args, output):
        output[:, 7] *= 2

    handle = blocks_of(model)[1].register_forward_hook(double_in_place)
    changed = features(model, images)
    handle.remove()

    def double_what_comes(_, args):
        args[0][:, 7] *= 2

    handle = blocks_of(model)[2].register_forward_pre_hook(double_what_comes)
    changed_before = features(model, images)
    handle.remove()
    assert (changed - before).abs().max() > 1e-3
    torch.testing.assert_close(changed_before, changed, atol=1e-5, rtol=1e-5)
    assert torch.equal(features(model, images), before)


@pytest.mark.parametrize("scorer", SCORERS)
def test_restore_brings_everything_back(model, scorer):
    images = make_images(model)
    dense = features(model, images)
    seen = []
    blocks_of(model)[1].register_forward_hook(lambda *_: seen.append(1))
    types = [type(m) for m in model.modules()]
    objects = [id(m) for m in model.modules()]
    attributes, keys = dict(model.__dict__), list(model.state_dict())
    values = {k: v.clone() for k, v in model.state_dict().items()}
    own = {id(p) for p in blocks_of(model)[1].parameters()}
    key = next(k for k, p in model.named_parameters() if id(p) in own)
    plan = make_plan(model, scorer, GROUPS["grouped"])
    plan = plan.with_(weights={f"model.{key}": values[key] + 1})

    returned = sparsight.apply(model, plan)
    assert returned is model
    assert list(model.state_dict()) == keys
    assert torch.equal(model.state_dict()[key], values[key] + 1)
    assert [n for n, _ in model.named_parameters()] == [
        k for k in keys if k in dict(model.named_parameters())
    ]
    sparse = features(model, images)
    assert len(seen) == 1  # a hook set before goes on working
    assert (sparse - dense).abs().max() > 1e-4
    blocks_of(model)[2].register_forward_hook(lambda *_: seen.append(2))

    assert sparsight.restore(model) is model
    assert [type(m) for m in model.modules()] == types
    assert [id(m) for m in model.modules()] == objects
    assert dict(model.__dict__) == attributes
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    assert torch.equal(features(model, images), dense)
    assert seen == [1, 1, 2]  # and so does one set meanwhile


@pytest.mark.parametrize("name", ["dinov3", "hf_dinov3"])
def test_training_mode_and_moves_reach_the_original(name):
    model = make_model(name)
    images = make_images(model)
    plan = make_plan(model, "linear")
    sparsight.apply(model, plan)
    model.train()
    model.double()
    assert features(model.eval(), images.double()).dtype == torch.float64
    assert blocks_of(model)[0].tensors["projector"].dtype == torch.float64
    model.train()
    sparsight.restore(model)
    assert all(m.training for m in model.modules())
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_half_precision(model):
    images = make_images(model)
    plan = make_plan(model, "exact", GROUPS["grouped"])
    wanted = features(sparsight.apply(copy.deepcopy(model), plan), images)
    half = sparsight.apply(model.bfloat16(), plan)
    got = features(half, images.bfloat16()).float()
    dense = features(sparsight.restore(half), images.bfloat16()).float()
    # bfloat16 keeps 8 bits and moves some tokens across the border of the kept set; the sparse model
    # may be no more than twice as far from its float32 self as sparse is from dense.
    assert got.dtype == torch.float32
    assert (got - wanted).norm() < 0.3 * wanted.norm()
    assert (got - dense).norm() > 0


def test_copies_and_pickles_are_independent(model):
    images = make_images(model)
    sparsight.apply(model, make_plan(model, groups=GROUPS["grouped"]))
    wanted = features(model, images)
    twin = copy.deepcopy(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(features(twin, images), wanted)
    buffer.seek(0)
    assert torch.equal(features(torch.load(buffer, weights_only=False), images), wanted)
    sparsight.restore(twin)
    assert applied(model)
    assert not applied(twin)


@pytest.mark.parametrize("name", ["augreg", "hf_vit"])
def test_below_the_crossover_a_layer_runs_dense(name):
    model = make_model(name)
    images = make_images(model)
    dense, n = features(model, images), 9 * 7 + 1
    assert torch.equal(
        features(sparsight.apply(model, make_plan(model, min_tokens=n + 1)), images), dense
    )
    sparsight.restore(model)
    assert not torch.equal(
        features(sparsight.apply(model, make_plan(model, min_tokens=n)), images), dense
    )


def test_a_mask_makes_layers_run_dense():
    model = make_model("augreg")
    images = make_images(model)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 5] = -torch.inf
    with torch.no_grad():
        wanted = model.forward_features(images, attn_mask=mask)
        got = sparsight.apply(model, make_plan(model)).forward_features(images, attn_mask=mask)
    assert torch.equal(got, wanted)


def test_gradients_flow_and_match_the_reference():
    model = make_model("dinov2_reg")
    images = make_images(model)
    plan = make_plan(model, "exact", GROUPS["grouped"])
    sparsight.apply(model, plan)
    model.forward_features(images).square().mean().backward()
    got = model.blocks[1].attn.qkv.weight.grad.clone()
    assert torch.isfinite(got).all()
    with torch.no_grad():
        weight, step = model.blocks[1].attn.qkv.weight, 1e-2 * got / got.norm()
        weight += step
        up = model.forward_features(images).double().square().mean()
        weight -= 2 * step
        down = model.forward_features(images).double().square().mean()
    slope = (up - down) / 2e-2
    # A central difference along the gradient has its norm as slope, to the accuracy of float32 sums.
    assert slope.item() == pytest.approx(got.norm().item(), rel=0.05)


def test_gradient_checkpointing_gives_the_same_gradients():
    model = make_model("augreg")
    images = make_images(model)
    sparsight.apply(model, make_plan(model, groups=GROUPS["grouped"])).train()
    gradients = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad()
        model.forward_features(images).square().mean().backward()
        gradients.append(model.blocks[0].attn.qkv.weight.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_compiled_without_a_break_equals_eager():
    """In a process of its own: the shape checks of these tests cannot be compiled through."""
    script = Path(__file__).with_name("compile_check.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    errors, sizes = found["errors"], found["sizes"]
    assert found["families"] == sorted(family.name for family in FAMILIES)
    # Compiled kernels group sums differently.
    assert all(error <= 1e-5 for error in errors.values()), errors
    # The first size, then any other: below 96 kept tokens, from there on, where 704 becomes 768; the
    # same of the tokens in the MLP, whose limits lie elsewhere.
    assert sizes["blocks-sparse"] <= 1 + 3 + 2
    # timm resizes its position embedding anew for every size, which the dense model compiles anew too.
    assert sizes["model-sparse"] <= sizes["model-dense"]


def test_all_layers_and_ranges_are_understood():
    model = make_model("augreg")
    sparsight.apply(model, sparsight.SVE(layers="all"))
    assert applied(model).plan.method.layers == (0, 1, 2, 3)
    sparsight.restore(model)
    sparsight.apply(model, sparsight.SVE(layers=range(2, 4), keep=1 / 8, scorer="sampled"))
    assert [type(b).__name__ for b in model.blocks] == ["Block", "Block", "SparseBlock", "SparseBlock"]


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (sparsight.SVE(), "needs calibration"),
        (sparsight.SVE(layers=(2, 4)), "names layer 4, but this model has layers 0 to 3"),
        (
            sparsight.SVE(layers=(0,), scorer="linear"),
            "no tensor 'sve.projector.0': scorer='linear' needs",
        ),
        ("nowhere", "no run folder at nowhere"),
        ({"layers": (0,)}, "is no method's settings"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(plan, reason):
    model = make_model("augreg")
    modules = [id(m) for m in model.modules()]
    with pytest.raises(sparsight.PlanError, match=reason):
        sparsight.apply(model, plan)
    assert [id(m) for m in model.modules()] == modules
    assert applied(model) is None


def test_apply_twice_and_restore_without_apply_are_refused():
    model = make_model("augreg")
    with pytest.raises(sparsight.PlanError, match="nothing to restore"):
        sparsight.restore(model)
    sparsight.apply(model, make_plan(model))
    with pytest.raises(sparsight.PlanError, match=r"call sparsight\.restore"):
        sparsight.apply(model, make_plan(model))


def test_every_small_model_stands_for_a_family():
    from sparsight.families import FAMILIES, family_of

    makers = (*WINDOWED.values(), *SWINS.values())
    models = [make_model(name) for name in ALL_MODELS] + [make() for make in makers]
    assert {family_of(model).name for model in models} == {f.name for f in FAMILIES}
