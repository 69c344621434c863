"""Modules are changed where they stand: whatever is done to them before or after, and back exactly."""

import copy
import functools
import io
import json
import pickle
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from changed_models import CASES, COMPILED, KINDS, Setup, facts
from conftest import attentions_of, blocks_of, make_images, make_model, plan_of
from test_apply import features
from torch.utils.checkpoint import checkpoint

import sparsight
from sparsight import attach
from sparsight.attach import applied, family_in
from sparsight.inplace import BUFFER
from sparsight.methods.reduced import CARRY
from sparsight.ops.attention import masked_attention
from sparsight.ops.partition import kept_count, rank


@pytest.fixture(params=CASES, ids="-".join)
def setup(request):
    return Setup(*request.param)


def test_what_is_compiled_before_or_after():
    """In a process of its own: see there."""
    script = Path(__file__).with_name("compiled_in_place.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found) == 2 * len(COMPILED)
    failed = {case: error for case, error in found.items() if error}
    assert not failed, "\n\n".join(f"{case}\n{error}" for case, error in failed.items())


@pytest.mark.parametrize("name", ["augreg", "dinov3", "hf_vit", "timm_sam2", "hf_swin"])
@pytest.mark.parametrize("what", ["model", "block", "attention", "mlp"])
def test_what_is_wrapped_by_a_compiler_is_refused(name, what):
    setup = Setup(name, "windows" if name == "hf_swin" else "attention")
    model = compiled = setup.model
    family, blocks = family_in(model), family_in(model).blocks(model)
    place = setup.plan.methods[0].changed_layers(range(len(blocks)))[-1]
    if what == "model":
        compiled = torch.compile(model)
    elif what == "block":
        blocks[place] = torch.compile(blocks[place])
    else:
        part = family.parts.attention(blocks[place]) if what == "attention" else blocks[place].mlp
        holder, attribute = next(
            (parent, key) for parent in blocks[place].modules()
            for key, child in parent._modules.items() if child is part
        )  # fmt: skip
        setattr(holder, attribute, torch.compile(part))
    before = facts(model)
    if what == "mlp":  # sparse attention and dropped windows leave it as it is, and call it
        sparsight.restore(sparsight.apply(compiled, setup.plan))
        if name == "hf_swin":
            return
        setup.plan = plan_of(model, sparsight.MLPRouting(layers=(place,)))
    error = (sparsight.PlanError, sparsight.UnsupportedModelError)
    with pytest.raises(error, match=r"compiled: apply the plan first, then"):
        sparsight.apply(compiled, setup.plan)
    assert facts(model) == before
    assert applied(model) is None


def hooked_by_accelerate(part):
    add_hook_to_module(part, ModelHook())


def wrapped(part):
    part.forward = functools.partial(lambda f, *args, **kwargs: f(*args, **kwargs), part.forward)


def subclassed(part):
    """As `fully_shard` does it."""
    part.__class__ = type("Sharded" + type(part).__name__, (type(part),), {})


@pytest.mark.parametrize("way", [hooked_by_accelerate, wrapped, subclassed])
def test_what_comes_after_apply_keeps_working_and_is_dense_after_restore(setup, way):
    sparsight.apply(setup.model, setup.plan)
    parts, kinds = setup.parts(), {}
    for part in parts:
        way(part)
        kinds[part] = type(part)
    setup.check_sparse()
    setup.check_restored()
    for part in parts if way is hooked_by_accelerate else ():
        remove_hook_from_module(part)
    assert all(map(torch.equal, setup.run(setup.model), setup.dense))
    assert way is not subclassed or all(type(part) is kinds[part] for part in parts)


def test_hooks_of_accelerate_from_before_apply(setup):
    model, calls = setup.model, []

    class Counting(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            calls.append(module)
            return args, kwargs

    family = family_in(model)
    for block in blocks_of(model):
        for part in (block, block.mlp if hasattr(block, "mlp") else None, family.parts.attention(block)):
            if part is not None:
                add_hook_to_module(part, Counting())
    before = facts(model)
    sparsight.apply(model, setup.plan)
    setup.check_sparse()
    assert set(setup.changed()) <= set(calls)
    setup.check_restored()
    assert facts(model) == before
    for part in model.modules():
        remove_hook_from_module(part)
    assert all(map(torch.equal, setup.run(model), setup.dense))
    sparsight.apply(model, setup.plan)  # what accelerate leaves behind is the class's own forward
    setup.check_sparse()
    setup.check_restored()


def replicas(model, count=2):
    """As torch.nn.parallel.replicate makes them, but on one device, which that refuses."""
    modules, found = list(model.modules()), []
    places = {module: n for n, module in enumerate(modules)}
    for _ in range(count):
        copies = [module._replicate_for_data_parallel() for module in modules]
        for module, made in zip(modules, copies, strict=True):
            for key, child in module._modules.items():
                made._modules[key] = None if child is None else copies[places[child]]
            for key, value in module._parameters.items():
                setattr(made, key, None if value is None else value.clone())
            for key, value in module._buffers.items():
                made._buffers[key] = None if value is None else value.clone()
        found.append(copies[0])
    return found


def test_replicas_for_data_parallel_run_sparsely(setup):
    sparsight.apply(setup.model, setup.plan)
    before = facts(setup.model)
    for replica in replicas(setup.model):
        assert all(map(torch.equal, setup.run(replica)[::-1], setup.sparse[::-1]))
    assert facts(setup.model) == before
    setup.check_sparse()
    setup.check_restored()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    """One process that is a group of its own."""
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh

    store = tmp_path_factory.mktemp("group") / "store"
    init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    destroy_process_group()


@pytest.mark.parametrize("weights", [False, True], ids=["settings", "weights"])
def test_sharded_after_apply(setup, mesh, weights):
    from torch.distributed.fsdp import fully_shard

    model, plan = setup.model, setup.plan
    values = {key: value.clone() for key, value in model.state_dict().items()}
    if weights:
        own = {id(p) for p in setup.family.blocks(model)[1].parameters()}
        key = next(key for key, p in model.named_parameters() if id(p) in own)
        plan = plan.with_(weights={f"model.{key}": values[key] + 0.1})
        setup.sparse = setup.run(sparsight.apply(copy.deepcopy(model), plan))
    sparsight.apply(model, plan)
    for block in setup.family.blocks(model):
        fully_shard(block, mesh=mesh)
    assert all(hasattr(block, "unshard") for block in setup.family.blocks(model))
    setup.check_sparse()
    setup.check_restored()
    for key, value in model.state_dict().items():
        assert torch.equal(value.full_tensor() if hasattr(value, "full_tensor") else value, values[key])


# A forward of the user's own


def part_of(setup, what):
    """That part of the last block that the plan changes."""
    (config,), blocks = setup.plan.methods, setup.family.blocks(setup.model)
    block = blocks[config.changed_layers(range(len(blocks)))[-1]]
    attention = setup.family.parts.attention(block)
    mlp = getattr(block, "mlp", None) or block.intermediate  # as transformers' Swin v2 calls its half
    return {"block": block, "mlp": mlp, "attention": attention}[what]


REFUSED = {  # which parts of a block must have the forward of their class
    "attention": {"attention"}, "mlp": {"mlp"}, "exit": {"block"}, "merging": {"block", "attention"},
    "pruning": {"block", "attention"}, "spot": {"block", "attention"}, "windows": {"block"},
}  # fmt: skip


@pytest.mark.parametrize("what", ["attention", "mlp", "block"])
@pytest.mark.parametrize("hooked", [False, True], ids=["plain", "hooked"])
def test_a_forward_of_the_users_own_is_refused_or_run(setup, what, hooked):
    part, calls = part_of(setup, what), []
    usual = part.forward

    def mine(self, *args, **kwargs):
        calls.append(self)
        return usual(*args, **kwargs)

    part.forward = types.MethodType(mine, part)
    if hooked:
        add_hook_to_module(part, ModelHook())
    before = facts(setup.model)
    if what in REFUSED[setup.kind]:
        name = next(name for name, module in setup.model.named_modules() if module is part)
        with pytest.raises(sparsight.PlanError, match=f"'{name}' .layer .* has a forward of its own"):
            sparsight.apply(setup.model, setup.plan)
        assert facts(setup.model) == before
        assert applied(setup.model) is None
    else:
        sparsight.apply(setup.model, setup.plan)
        setup.check_sparse()
        assert set(calls) == {part}
        setup.check_restored()
        assert facts(setup.model) == before


# Failures half way


@pytest.mark.parametrize("kind", ["attention", "mlp", "exit"])
def test_weights_that_cannot_be_written_leave_the_model_as_it_was(kind):
    model, images = make_model("augreg"), make_images(make_model("augreg"))
    keys = [key for key in model.state_dict() if "blocks.1." in key and key.endswith("weight")]
    last = model.blocks[1].mlp.fc2
    last.weight = torch.nn.Parameter(torch.zeros(1).expand(last.weight.shape), requires_grad=False)
    assert keys[-1] == "blocks.1.mlp.fc2.weight"
    values = {key: value.clone() for key, value in model.state_dict().items()}
    dense, before, plan = features(model, images), facts(model), plan_of(model, KINDS[kind](model))
    with pytest.raises(sparsight.PlanError, match=r"'blocks.1.mlp.fc2.weight' .* cannot be written"):
        sparsight.apply(model, plan.with_(weights={f"model.{key}": values[key] + 1 for key in keys}))
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    assert facts(model) == before
    assert applied(model) is None
    assert torch.equal(features(model, images), dense)
    # Without weights there is nothing to write.
    sparsight.apply(model, plan)
    assert not torch.equal(features(model, images), dense)
    sparsight.restore(model)
    assert facts(model) == before


def test_a_model_made_under_inference_mode_is_written_and_restored():
    with torch.inference_mode():
        model = make_model("augreg")
    images, key = make_images(model), "blocks.1.mlp.fc1.weight"
    dense, before, value = features(model, images), facts(model), model.state_dict()[key].clone()
    plan = plan_of(model, KINDS["attention"](model)).with_(weights={f"model.{key}": value + 1})
    with torch.inference_mode():
        sparsight.apply(model, plan)
    assert torch.equal(model.state_dict()[key], value + 1)
    assert not torch.equal(features(model, images), dense)
    sparsight.restore(model)
    assert facts(model) == before
    assert torch.equal(model.state_dict()[key], value)
    assert torch.equal(features(model, images), dense)


def test_quantised_weights_leave_the_model_as_it_was():
    pytest.importorskip("torchao", reason="torchao, which quantises, is not installed")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = make_model("augreg")
    value = model.blocks[1].mlp.fc1.weight.detach().clone()
    quantize_(model, Int8WeightOnlyConfig())
    images, before = make_images(model), facts(model)
    dense, plan = features(model, images), plan_of(model, KINDS["attention"](model))
    with pytest.raises(sparsight.PlanError, match=r"cannot be written.* then quantise"):
        sparsight.apply(model, plan.with_(weights={"model.blocks.1.mlp.fc1.weight": value + 1}))
    assert facts(model) == before
    sparsight.apply(model, plan)
    assert not torch.equal(features(model, images), dense)
    assert torch.equal(features(sparsight.restore(model), images), dense)
    plain = make_model("augreg")
    sparsight.apply(plain, plan.with_(weights={"model.blocks.1.mlp.fc1.weight": value + 1}))
    quantize_(plain, Int8WeightOnlyConfig())
    with pytest.raises(sparsight.PlanError, match=r"cannot be written back .* load the model again"):
        sparsight.restore(plain)


def test_whatever_stops_apply_half_way_leaves_the_model_as_it_was(setup, monkeypatch):
    done, usual, before = [], attach.change, facts(setup.model)
    values = {key: value.clone() for key, value in setup.model.state_dict().items()}
    first = next(iter(values))

    def change(module, *args):
        if len(done) == 1:
            raise KeyboardInterrupt
        usual(module, *args)
        done.append(module)

    monkeypatch.setattr(attach, "change", change)
    with pytest.raises(KeyboardInterrupt):
        sparsight.apply(setup.model, setup.plan.with_(weights={f"model.{first}": values[first] + 1}))
    monkeypatch.undo()
    assert done
    assert facts(setup.model) == before
    assert all(torch.equal(value, values[key]) for key, value in setup.model.state_dict().items())
    assert all(map(torch.equal, setup.run(setup.model), setup.dense))
    sparsight.apply(setup.model, setup.plan)
    setup.check_sparse()


# Copies, moves, keys


def test_copies_and_pickles_are_sparse_and_independent(setup):
    sparsight.apply(setup.model, setup.plan)
    buffer = io.BytesIO()
    torch.save(setup.model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    twins = [copy.deepcopy(setup.model), loaded, pickle.loads(pickle.dumps(setup.model))]
    before = facts(setup.model)
    with torch.no_grad():
        for twin in twins:
            assert all(map(torch.equal, setup.run(twin), setup.sparse))
            assert [type(part) for part in twin.modules()] == [type(p) for p in setup.model.modules()]
            sparsight.restore(twin)
            assert all(map(torch.equal, setup.run(twin), setup.dense))
            for parameter in twin.parameters():
                parameter.zero_()
    assert facts(setup.model) == before
    setup.check_sparse()
    setup.check_restored()


def test_keys_parameters_and_modes_are_as_before_and_moves_take_everything_along(setup):
    model = setup.model
    keys, names = list(model.state_dict()), [name for name, _ in model.named_parameters()]
    ids, types_ = [id(p) for p in model.parameters()], [type(part) for part in model.modules()]
    sparsight.apply(model, setup.plan)
    assert list(model.state_dict()) == keys
    assert [name for name, _ in model.named_parameters()] == names
    assert [id(p) for p in model.parameters()] == ids
    brought = [value for name, value in model.named_buffers() if BUFFER in name]
    assert len(brought) == len(setup.plan.weights)
    model.load_state_dict(model.state_dict(), strict=True)

    model.double()
    assert {v.dtype for n, v in model.named_buffers() if BUFFER in n} <= {torch.float64}
    precise = setup.family.features(model, setup.images[0].double())
    # Another kept token or window moves some outputs by their own size; rounding by a thousandth of it.
    assert (precise - setup.sparse[0]).norm() <= 1e-3 * setup.sparse[0].norm()
    model.bfloat16()
    rough = features(model, setup.images[0].bfloat16())
    assert rough.dtype == torch.bfloat16
    # 8 bits of precision, and some tokens cross the border of the kept set.
    assert (rough.float() - setup.sparse[0]).norm() < 0.5 * setup.sparse[0].norm()
    model.to("meta")
    assert {v.device.type for v in model.buffers()} | {v.device.type for v in model.parameters()} == {
        "meta"
    }
    model.train()
    sparsight.restore(model)
    assert all(part.training for part in model.modules())
    assert [type(part) for part in model.modules()] == types_
    assert list(model.state_dict()) == keys
    assert not [name for name, _ in model.named_buffers() if BUFFER in name]


@pytest.mark.parametrize("completion", ["last", "map"])
def test_under_autocast(setup, completion):
    """Norms give float32 there, and linear layers bfloat16."""
    (config,) = setup.plan.methods
    if "completion" in type(config).model_fields:
        none = "none" if setup.kind == "attention" else "last"
        changes = {"completion": none if completion == "last" else "map"}
        if setup.kind in ("exit", "spot"):
            changes["taps"] = ()
        setup.plan = plan_of(setup.model, type(config).model_validate(config.model_dump() | changes))
    sparsight.apply(setup.model, setup.plan)
    wanted = features(setup.model, setup.images[0])
    with torch.autocast("cpu", torch.bfloat16):
        got = features(setup.model, setup.images[0])
        dense = features(sparsight.restore(setup.model), setup.images[0])
    assert got.dtype == dense.dtype
    # 8 bits of precision, and some tokens cross the border of the kept set.
    assert (got.float() - wanted).norm() < 0.5 * wanted.norm()


# What can be seen inside a sparse block


INSIDE = {  # of a block: first norm, attention, a projection in it, second norm, MLP
    "augreg": ("norm1", "attn", "attn.qkv", "norm2", "mlp"),
    "dinov3": ("norm1", "attn", "attn.qkv", "norm2", "mlp"),
    "hf_vit": ("layernorm_before", "attention", "attention.q_proj", "layernorm_after", "mlp"),
    "hf_clip": ("layer_norm1", "self_attn", "self_attn.q_proj", "layer_norm2", "mlp"),
    "hf_dinov3": ("norm1", "attention", "attention.q_proj", "norm2", "mlp"),
}


def record(modules):
    """By name, what each was given, what it returned, and the other arguments; filled when it runs."""
    seen = {}

    def hook_for(name):
        def hook(module, args, kwargs, output):
            given = args[0] if args else kwargs["hidden_states"]
            seen[name] = given, output[0] if isinstance(output, tuple) else output, kwargs

        return hook

    for name, module in modules.items():
        module.register_forward_hook(hook_for(name), with_kwargs=True)
    return seen


@pytest.mark.parametrize("name", INSIDE)
def test_hooks_inside_a_sparse_block_see_tokens_in_their_own_order(name):
    model = make_model(name)
    images, family, blocks = make_images(model), family_in(model), blocks_of(model)
    prefix, parts, ranked = family.prefix_tokens(model), family.parts, []

    def qkv(block, x, kwargs):
        tables = {k: kwargs[k] for k in family.per_token if kwargs.get(k) is not None}
        return parts.qkv(parts.attention(block), parts.norm(block, x), **tables)

    def rank_by_hand(block, args, kwargs):
        q, k, _ = qkv(block, args[0], kwargs)
        scores = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1).mean((1, 2))
        ranked.append(rank(scores, prefix))

    handle = blocks[2].register_forward_pre_hook(rank_by_hand, with_kwargs=True)
    features(model, images)
    handle.remove()
    config = sparsight.SVE(layers=(2, 3), groups=((2, 3),), keep=1 / 4, score="exact", min_tokens=0)
    sparsight.apply(model, config)
    paths = ("norm1", "attn", "qkv", "norm2", "mlp")
    inside = [blocks[3].get_submodule(path) for path in INSIDE[name]]
    seen = record(dict(zip(paths, inside, strict=True)) | {"block": blocks[3], "before": blocks[2]})
    features(model, images)
    for block in (blocks[2], blocks[3], *inside):
        block._forward_hooks.clear()

    block, (x, _, kwargs) = blocks[3], seen["block"]
    assert torch.equal(x, seen["before"][1])
    count = kept_count(x.shape[1], 1 / 4, prefix)
    with torch.no_grad():
        h = parts.norm(block, x)
        out = masked_attention(*qkv(block, x, kwargs), ranked[0], count, count)
        y = parts.merge(parts.attention(block), out, h)
        middle = parts.residual(block, x, y)
    # float32, rounded otherwise; tokens in another order would be off by their own size.
    for got, wanted in (
        (seen["norm1"][0], x), (seen["norm1"][1], h), (seen["attn"][0], h), (seen["qkv"][0], h),
        (seen["attn"][1], y), (seen["norm2"][0], middle), (seen["mlp"][0], seen["norm2"][1]),
    ):  # fmt: skip
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["augreg", "dinov3", "hf_vit"])
def test_hooks_inside_a_block_that_tokens_have_left_see_those_that_go_on(name):
    model = make_model(name)
    images, blocks = make_images(model), blocks_of(model)
    sparsight.apply(model, plan_of(model, sparsight.EarlyExit(after=(0,), keep=1 / 2, min_tokens=0)))
    paths = ("norm1", "attn", "qkv", "norm2", "mlp")
    inside = [blocks[3].get_submodule(path) for path in INSIDE[name]]
    seen = record(dict(zip(paths, inside, strict=True)) | {"block": blocks[3]})
    features(model, images)
    x, rows = seen["block"][0], getattr(seen["block"][0], CARRY).rows
    assert torch.equal(rows, rows.sort(1).values)
    assert torch.equal(seen["norm1"][0], torch.stack([x[n, rows[n]] for n in range(2)]))
    assert all(seen[path][1].shape[:2] == rows.shape for path in paths)


# Several at once, and again for gradients


@pytest.mark.parametrize("score", ["sampled", "standout"])
def test_threads_that_share_a_model_do_not_share_rankings(score):
    model = make_model("augreg")
    layers = {"layers": (1, 2), "groups": ((1, 2),), "min_tokens": 0}
    sparsight.apply(model, sparsight.SVE(keep=1 / 4, score=score, **layers))
    pictures = [make_images(model, 1, seed=seed) for seed in (1, 2)]
    wanted = [features(model, images) for images in pictures]
    both, got = threading.Barrier(2, timeout=60), {}
    # Each has ranked before either reuses.
    handle = attentions_of(model)[2].register_forward_pre_hook(lambda *_: (both.wait(), None)[1])

    def run(number):
        got[number] = features(model, pictures[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.remove()
    assert all(torch.equal(got[number], wanted[number]) for number in (0, 1))


def gradient_of(model, images, run):
    """Of the projection in the first sparse attention, through blocks run by `run`."""
    model.zero_grad()
    for picture in images:
        x = model.pos_drop(model._pos_embed(model.patch_embed(picture)))
        for block in model.blocks:
            x = run(block, x)
        x.square().mean().backward()
    return model.blocks[1].attn.qkv.weight.grad.clone()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("group", [((1, 2, 3),), ((1, 2),), ()])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant, group):
    model = make_model("augreg")
    images = [make_images(model, seed=seed) for seed in (1, 2)]
    sparsight.apply(model, sparsight.SVE(layers=(1, 2, 3), groups=group, keep=1 / 4, min_tokens=0))
    plain = gradient_of(model, images, lambda block, x: block(x))
    again = gradient_of(model, images, lambda *args: checkpoint(*args, use_reentrant=reentrant))
    torch.testing.assert_close(again, plain, atol=1e-6, rtol=1e-4)


def test_checkpoints_are_run_again_in_another_thread():
    """As on a GPU, whose backward pass has a thread of its own."""
    model = make_model("augreg")
    images = [make_images(model, seed=1)]
    sparsight.apply(
        model, sparsight.SVE(layers=(1, 2, 3), groups=((1, 2, 3),), keep=1 / 4, min_tokens=0)
    )
    plain = gradient_of(model, images, lambda block, x: block(x))
    model.zero_grad()
    x = model.pos_drop(model._pos_embed(model.patch_embed(images[0])))
    for block in model.blocks:
        x = checkpoint(block, x, use_reentrant=False)
    thread = threading.Thread(target=x.square().mean().backward)
    thread.start()
    thread.join()
    torch.testing.assert_close(model.blocks[1].attn.qkv.weight.grad, plain, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_pass_whose_ranking_another_has_replaced_is_not_run_again(reentrant):
    model = make_model("augreg")
    config = sparsight.SVE(layers=(1, 2), groups=((1, 2),), keep=1 / 4, min_tokens=0)
    sparsight.apply(model, config)
    model.requires_grad_(True)
    losses = []
    for seed in (1, 2):
        x = model.pos_drop(model._pos_embed(model.patch_embed(make_images(model, seed=seed))))
        for block in model.blocks:
            x = checkpoint(block, x, use_reentrant=reentrant)
        losses.append(x.square().mean())
    with pytest.raises(sparsight.SparsightError, match="call backward after each forward"):
        sum(losses).backward()


def test_a_ranking_of_other_tokens_is_not_reused():
    model = make_model("augreg")
    sparsight.apply(model, sparsight.SVE(layers=(1, 2), groups=((1, 2),), keep=1 / 4, min_tokens=0))
    features(model, make_images(model))
    with pytest.raises(sparsight.SparsightError, match=r"layer 2 reuses the ranking .* these tokens"):
        model.blocks[2](torch.randn(2, 50, model.embed_dim))
    with pytest.raises(sparsight.SparsightError, match=r"layer 2 reuses the ranking .* these tokens"):
        model.blocks[2](torch.randn(1, 64, model.embed_dim))


def test_a_ranking_keeps_little_of_a_pass():
    model = make_model("augreg")
    sparsight.apply(model, sparsight.SVE(layers=(1, 2), groups=((1, 2),), keep=1 / 4, min_tokens=0))
    images = make_images(model)
    model(images).sum().backward()
    ranking = attentions_of(model)[2]._sparsight.shared.local.ranking
    kept = [top for top, _ in ranking.ranked]
    for last, ranked in ranking.used.values():
        kept += [last, *(top for top, _ in ranked)]
    assert len(kept) == 3
    # One token of each picture, and the places of a quarter of them; not the tokens of a layer.
    held = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}.values())
    assert held == 2 * model.embed_dim * 4 + 2 * 16 * 8
