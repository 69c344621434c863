"""The invariants that hold for every family and every way of scoring: apply, run, restore."""

import copy
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import (
    ALL_MODELS,
    SWINS,
    WINDOWED,
    attentions_of,
    blocks_of,
    make_images,
    make_model,
    plan_of,
    run_features,
)

import sparsight
from sparsight.attach import applied, family_in
from sparsight.families import FAMILIES, family_of
from sparsight.ops import partition
from sparsight.ops.attention import masked_attention
from sparsight.ops.statistics import lattice_sample

SCORES = ("exact", "sampled", "linear")
OF_TOKENS = ("standout", "magnitude")
GROUPS = {"alone": (), "grouped": ((0, 1, 2),)}


def make_plan(model, score="sampled", groups=(), **settings):
    """The first three global layers sparse at any size, with made-up projectors and maps."""
    layers = family_in(model).global_layers(model)[:3]
    settings = {"layers": layers, "keep": 1 / 4, "sample_every": 4, "min_tokens": 0} | settings
    return plan_of(model, sparsight.SVE(score=score, groups=groups, **settings))


def scored(name, h, prefix, tensors, every=4, qk=None):
    """A score of every token from its definition, with the map of all pairs."""
    if name == "linear":
        return h @ tensors["projector"]
    if name == "magnitude":
        return h.abs().mean(2)
    if name == "standout":
        return (h - h[:, prefix:].mean(1, keepdim=True)).square().sum(2)
    if name == "map-error":
        return mapped_by_hand(torch.cat([h, h**2], 2), tensors["error"])
    q, k = qk
    full = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    seen = {"exact": slice(None), "class-attention": [0]}
    rows = seen[name] if name in seen else lattice_sample(q.shape[2], prefix, every)
    return full[:, :, rows].mean((1, 2))


def mapped_by_hand(n, table):
    """[n, 1] W."""
    return torch.cat([n, torch.ones_like(n[..., :1])], -1) @ table


def tensors_of(plan, method, layer):
    """By their short names."""
    start = f"{method}.{layer}."
    return {k.removeprefix(start): v for k, v in plan.weights.items() if k.startswith(start)}


def sparse_block(family, config, plan, prefix, outputs=None):
    """Hooks, by layer, that make a dense block's result that of a block with SVE's sparse attention."""
    parts, order = family.parts, {}

    def hook_for(layer):
        def hook(block, args, kwargs, output):
            tables = {k: kwargs[k] for k in family.per_token if kwargs.get(k) is not None}
            x, attn = args[0].flatten(1, -2), parts.attention(block)
            h = parts.norm(block, x)
            q, k, v = parts.qkv(attn, h, **tables)
            own = tensors_of(plan, "sve", layer)
            if layer in config.followers():
                order[layer] = order[config.followers()[layer]]
            else:
                score = scored(config.score, h, prefix, own, config.sample_every, (q, k))
                order[layer] = partition.rank(score, prefix)
            n = x.shape[1]
            nq, nk = (partition.kept_count(n, f, prefix) for f in config.kept_at(layer))
            y = parts.merge(attn, masked_attention(q, k, v, order[layer], nq, nk), h)
            if "map" in own:
                sees_all = partition.inverse(order[layer])[:, :, None] < nq  # rank below the count
                y = torch.where(sees_all, y, y + mapped_by_hand(h, own["map"]))
            y = parts.mlp(block, parts.residual(block, x, y)).view(args[0].shape)
            if outputs is not None:
                outputs.append(y)
            return y

        return hook

    return {layer: hook_for(layer) for layer in config.layers}


def routed_mlp(config, plan, prefix):
    """Hooks, by layer, that make a dense MLP's result that of one some of the tokens go through."""

    def hook_for(layer):
        def hook(mlp, args, output):
            h, full = args[0].flatten(1, -2), output.flatten(1, -2)
            own = tensors_of(plan, "mlp-routing", layer)
            count = partition.kept_count(h.shape[1], config.kept_at(layer), prefix)
            if count == h.shape[1]:
                return None
            order = partition.rank(scored(config.score, h, prefix, own), prefix)
            through = partition.inverse(order)[:, :, None] < count
            rest = mapped_by_hand(h, own["map"]) if "map" in own else torch.zeros_like(h)
            return torch.where(through, full, rest).view(output.shape)

        return hook

    return {layer: hook_for(layer) for layer in config.layers}


def reference(model, plan, images, outputs=None):
    """The sparse model from the equations: a mask for every layer, tokens in their own order.

    Of SVE and MLP routing.  The outputs of the layers with SVE are added to the list `outputs`.
    """
    family = family_of(model)
    blocks, prefix, handles = family.blocks(model), family.prefix_tokens(model), []
    if routing := plan.find(sparsight.MLPRouting):
        for layer, hook in routed_mlp(routing, plan, prefix).items():
            handles.append(blocks[layer].mlp.register_forward_hook(hook))
    if sve := plan.find(sparsight.SVE):
        for layer, hook in sparse_block(family, sve, plan, prefix, outputs).items():
            handles.append(blocks[layer].register_forward_hook(hook, with_kwargs=True))
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


def assert_sparse_equals(wanted, got, dense):
    # Four blocks of float32 with outputs of size one to ten.  Sparse and dense differ a thousand times
    # more, so that a wrong kept set cannot pass.
    scale = wanted.abs().max()
    assert (got - wanted).abs().max() <= 1e-5 * scale
    assert (got - dense).abs().max() > 1e-3 * scale


@pytest.mark.parametrize("completion", ["none", "map"])
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("score", SCORES)
def test_sparse_attention_equals_the_masked_reference(model, score, groups, completion):
    images = make_images(model)
    plan = make_plan(model, score, groups, keep_queries=1 / 6, completion=completion)
    wanted, dense = reference(model, plan, images), features(model, images)
    assert_sparse_equals(wanted, features(sparsight.apply(model, plan), images), dense)


@pytest.mark.parametrize("score", [*OF_TOKENS, "class-attention"])
def test_other_scores_equal_the_masked_reference(model, score):
    images, prefix = make_images(model), family_of(model).prefix_tokens(model)
    settings = {"keep": (1 / 4, 1 / 2, 1.0), "keep_queries": (1 / 2, 1 / 8, 1 / 6)}
    if score == "class-attention" and prefix == 0:
        with pytest.raises(sparsight.PlanError, match=r"asks the class token .* this model has none"):
            sparsight.apply(model, make_plan(model, score))
        assert applied(model) is None
        return
    plan = make_plan(model, score, completion="map", **settings)
    wanted, dense = reference(model, plan, images), features(model, images)
    assert_sparse_equals(wanted, features(sparsight.apply(model, plan), images), dense)


@pytest.mark.parametrize("completion", ["last", "map"])
@pytest.mark.parametrize("score", [*OF_TOKENS, "map-error"])
def test_only_some_tokens_go_through_the_mlp(model, score, completion):
    images = make_images(model)
    shares = {"layers": (0, 1, 3), "keep": (1 / 3, 1.0, 1 / 5)}
    routing = sparsight.MLPRouting(score=score, completion=completion, min_tokens=0, **shares)
    plan = plan_of(model, routing)
    wanted, dense = reference(model, plan, images), features(model, images)
    assert_sparse_equals(wanted, features(sparsight.apply(model, plan), images), dense)


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_mlps_are_routed_in_layers_of_sparse_attention(model, groups):
    images, layers = make_images(model), (0, 1, 2)
    sve = sparsight.SVE(layers=layers, keep=1 / 4, sample_every=4, groups=groups, min_tokens=0)
    routing = sparsight.MLPRouting(layers=(1, 2, 3), keep=1 / 3, min_tokens=0)
    plan = plan_of(model, sve, routing)
    wanted = reference(model, plan, images)
    unrouted = features(sparsight.apply(copy.deepcopy(model), plan.with_(methods=[sve])), images)
    assert_sparse_equals(wanted, features(sparsight.apply(model, plan), images), unrouted)


@pytest.mark.parametrize("score", SCORES)
def test_keeping_everything_equals_dense(model, score):
    images = make_images(model)
    dense = features(model, images)
    plan = make_plan(model, score, GROUPS["grouped"], keep=1.0, completion="map")
    assert torch.equal(features(sparsight.apply(model, plan), images), dense)


def test_routing_everything_equals_dense(model):
    images = make_images(model)
    dense = features(model, images)
    sparsight.apply(model, plan_of(model, sparsight.MLPRouting(keep=1.0, min_tokens=0)))
    assert torch.equal(features(model, images), dense)


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


@pytest.mark.parametrize("score", SCORES)
def test_restore_brings_everything_back(model, score):
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
    plan = make_plan(model, score, GROUPS["grouped"], completion="map")
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


def test_a_model_is_sparse_for_a_while_and_as_it_was_after_a_failure():
    model = make_model("dinov2_reg")
    images, plan = make_images(model), make_plan(model, "sampled")
    dense = features(model, images)
    differs = []

    def fails_in_the_end():
        with sparsight.sparse(model, plan) as changed:
            assert changed is model
            differs.append((features(model, images) - dense).abs().max() > 1e-4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails_in_the_end()
    assert differs == [True]
    assert torch.equal(features(model, images), dense)
    with pytest.raises(sparsight.PlanError, match="no plan applied"):
        sparsight.restore(model)


@pytest.mark.parametrize("name", ["dinov3", "hf_dinov3"])
def test_training_mode_and_moves_reach_the_original(name):
    model = make_model(name)
    images = make_images(model)
    plan = make_plan(model, "linear")
    sparsight.apply(model, plan)
    model.train()
    model.double()
    assert features(model.eval(), images.double()).dtype == torch.float64
    assert attentions_of(model)[0].tensor("projector").dtype == torch.float64
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
    assert applied(model).plan.sve.layers == (0, 1, 2, 3)
    sparsight.restore(model)
    sparsight.apply(model, sparsight.SVE(layers=range(2, 4), keep=1 / 8, score="sampled"))
    kinds = [type(b.attn).__name__ for b in model.blocks]
    assert kinds == ["Attention", "Attention", "SparseAttention", "SparseAttention"]


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (sparsight.SVE(), "needs calibration"),
        (sparsight.SVE(layers=(2, 4)), "names layer 4, but this model has layers 0 to 3"),
        (
            sparsight.SVE(layers=(0,), score="linear"),
            "no tensor 'sve.0.projector': score='linear' needs",
        ),
        (sparsight.SVE(layers=(0,), completion="map"), "no tensor 'sve.0.map': .* sparsight.optimize"),
        (sparsight.MLPRouting(layers=(4,)), "names layer 4, but this model has layers 0 to 3"),
        (sparsight.MLPRouting(), "no tensor 'mlp-routing.0.map': .* sparsight.optimize"),
        (sparsight.LowerResolution(), "changes the pictures and not the model"),
        ([], "a plan of no methods"),
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
    makers = (*WINDOWED.values(), *SWINS.values())
    models = [make_model(name) for name in ALL_MODELS] + [make() for make in makers]
    assert {family_of(model).name for model in models} == {f.name for f in FAMILIES}
