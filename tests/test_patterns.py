"""Attention by places alone, windows, stripes and a lattice of keys, against masks of N x N."""

import copy
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    attentions_of,
    blocks_of,
    make_images,
    make_model,
    make_timm_sam2,
    run_features,
)
from site_models import make_site
from test_complete import moved, pictures_of
from test_sites import picture
from torch.overrides import TorchFunctionMode

import sparsight
from sparsight.attach import applied, as_plan, dense_calls, family_in
from sparsight.ops.partition import kept_count
from sparsight.ops.patterns import grouped_attention, lattice_ranks, stripes, windows, z_order
from sparsight.stages.bench import bench_of
from sparsight.stages.complete import complete

GRIDS = [(9, 7), (8, 8), (4, 16), (16, 4), (2, 31), (13, 5)]
WINDOWS = sparsight.LocalAttention(pattern="windows", size=4, min_tokens=0)
STRIPES = sparsight.LocalAttention(pattern="stripes", size=3, keep=0.3, min_tokens=0)
PATTERNS = {"windows": WINDOWS, "stripes": STRIPES}
MODELS = ("siglip", "augreg", "dinov3", "hf_dinov3")  # prefixes of 0, 1 and 5; rotary tables


def morton(row, column):
    """The digits of both in turn, as text."""
    digits = itertools.chain(*zip(f"{row:08b}", f"{column:08b}", strict=True))
    return "".join(digits)


def order_of(rows, columns):
    """Places along the Z-curve, one of each four first."""
    places = sorted(range(rows * columns), key=lambda p: morton(*divmod(p, columns)))
    return [place for first in range(4) for place in places[first::4]]


def seen(config, grid, prefix):
    """Who sees whom, by the definition, token by token; (n, n)."""
    (rows, columns), n = grid, prefix + grid[0] * grid[1]
    who = torch.zeros(n, n, dtype=torch.bool)
    who[:prefix] = who[:, :prefix] = True
    if config.pattern == "windows":
        groups = {}
        for place in range(rows * columns):
            row, column = divmod(place, columns)
            groups.setdefault((row // config.size, column // config.size), []).append(place)
        shared, groups = [], groups.values()
    else:
        block, order = config.size**2, order_of(rows, columns)
        blocks = [order[start : start + block] for start in range(0, len(order), block)]
        bar = int(config.keep * len(blocks))
        shared, groups = [place for part in blocks[:bar] for place in part], blocks[bar:]
    for group in groups:
        places = torch.tensor(group) + prefix
        who[places[:, None], places] = True
    who[:, torch.tensor(shared, dtype=torch.long) + prefix] = True
    return who


class Masked(TorchFunctionMode):
    """Every call with as many tokens as the mask has, behind it."""

    def __init__(self, who):
        super().__init__()
        self.who, self.calls = who, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention and args[0].shape[2] == len(self.who):
            self.calls += 1
            return func(*args[:3], attn_mask=self.who, scale=(kwargs or {}).get("scale"))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def features(model, images):
    return run_features(model, images)


def behind(who, model, images):
    mode = Masked(who)
    with mode:
        found = features(model, images)
    assert mode.calls
    return found


def close(got, wanted, tolerance=1e-5):
    # The same sums in float32, grouped otherwise, through a few layers.
    return (got - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("grid", GRIDS)
def test_every_place_is_in_one_group_or_shared(grid):
    places = list(range(grid[0] * grid[1]))
    for pattern in (
        windows(*grid, 3),
        windows(*grid, 40),
        stripes(*grid, 9, 0.3),
        stripes(*grid, 7, 0.0),
    ):
        every = torch.cat([pattern.shared, *(group.flatten() for group in pattern.groups)])
        assert sorted(every.tolist()) == places
    assert [z for first in range(4) for z in z_order(*grid)[first::4].tolist()] == order_of(*grid)


def test_a_quarter_is_every_other_token_of_every_other_row():
    even = {row * 16 + column for row in range(0, 8, 2) for column in range(0, 16, 2)}
    assert set(stripes(8, 16, 4, 1 / 4).shared.tolist()) == even
    assert set(lattice_ranks(8, 16).argsort()[:32].tolist()) == even
    fourth = {row * 16 + column for row in range(0, 8, 4) for column in range(0, 16, 4)}
    assert set(lattice_ranks(8, 16).argsort()[:8].tolist()) == fourth


@pytest.mark.parametrize("grid", [(9, 7), (20, 21), (6, 33)])
def test_a_lattice_of_any_grid_leaves_no_token_far_from_it(grid):
    ranks = lattice_ranks(*grid)
    assert len(set(ranks.tolist())) == grid[0] * grid[1]
    there = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), -1).flatten(0, 1)
    for count in (len(there) // 2, len(there) // 4, len(there) // 16, 3):
        kept = there[ranks.argsort()[:count]]
        apart = (there[:, None] - kept).abs().amax(2).amin(1)
        step = next(s for s in (2**j for j in range(9)) if -(-grid[0] // s) * -(-grid[1] // s) <= count)
        assert apart.max() < step  # the lattice of that step is in it


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("config", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("grid", GRIDS)
def test_grouped_attention_equals_the_mask(grid, config, prefix):
    n = prefix + grid[0] * grid[1]
    q, k, v = torch.randn(3, 2, 3, n, 8, generator=torch.Generator().manual_seed(0))
    who = seen(config, grid, prefix)
    if config.pattern == "windows":
        pattern = windows(*grid, config.size)
    else:
        pattern = stripes(*grid, config.size**2, config.keep)
    for scale in (None, 0.7):
        got = grouped_attention(q, k, v, prefix, pattern, scale)
        wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=who, scale=scale).transpose(1, 2)
        assert close(got, wanted)


@pytest.mark.parametrize("config", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_equals_the_mask_and_is_restored(name, config):
    model = make_model(name)
    keys, family = list(model.state_dict()), family_in(model)
    images = make_images(model)
    who = seen(config, (9, 7), family.prefix_tokens(model))
    dense, wanted = features(model, images), behind(who, model, images)
    sparsight.apply(model, config)
    got = features(model, images)
    assert close(got, wanted)
    assert (got - dense).abs().max() > 1e-3 * dense.abs().max()
    alone = torch.cat([features(model, image[None]) for image in images])
    assert close(got, alone)
    assert list(model.state_dict()) == keys
    assert torch.equal(features(sparsight.restore(model), images), dense)
    assert applied(model) is None


@pytest.mark.parametrize("config", PATTERNS.values(), ids=PATTERNS)
def test_grids_of_as_many_tokens_are_told_apart_in_one_model(config):
    model = make_model("augreg")
    twin = sparsight.apply(copy.deepcopy(model), config)
    for grid in ((4, 16), (8, 8), (16, 4)):
        images = make_images(model, grid=grid)
        assert close(features(twin, images), behind(seen(config, grid, 1), model, images))


@pytest.mark.parametrize("config", PATTERNS.values(), ids=PATTERNS)
def test_global_blocks_of_maps_have_their_own_grid(config):
    model = make_timm_sam2()
    images = make_images(model)
    twin, pooled = sparsight.apply(copy.deepcopy(model), config), (18, 14)
    got, grids = {}, {5: pooled, 6: pooled, 8: (9, 7)}
    for layer in (5, 6, 8):
        attentions_of(twin)[layer].register_forward_hook(
            lambda _, args, out, layer=layer: got.update({layer: (args[0], out)})
        )
    features(twin, images)
    for layer, (x, out) in got.items():
        assert x.shape[1:3] == grids[layer]
        with torch.no_grad(), Masked(seen(config, grids[layer], 0)):
            assert close(out, attentions_of(model)[layer](x))


@pytest.mark.parametrize("name", ["ijepa", "sam3", "mlcd", "parallel"])
def test_models_without_a_family_equal_the_mask(name):
    model = make_site(name)
    images, prefix = picture(model), family_in(model).prefix_tokens(model)
    who = seen(WINDOWS, (8, 8), prefix)
    layers = family_in(model).global_layers(model)
    dense = features(model, images)
    twin = sparsight.apply(copy.deepcopy(model), WINDOWS.model_copy(update={"layers": layers[-1:]}))
    mode = Masked(who)
    attention = attentions_of(model)[layers[-1]]
    attention.register_forward_pre_hook(lambda *_: mode.__enter__() and None)
    attention.register_forward_hook(lambda *_: mode.__exit__(None, None, None))
    got = features(twin, images)
    assert close(got, features(model, images))
    assert mode.calls == 1
    assert (got - dense).abs().max() > 1e-3 * dense.abs().max()


@pytest.mark.parametrize(
    "config",
    [
        WINDOWS.model_copy(update={"size": 9}),
        STRIPES.model_copy(update={"size": 8}),
        WINDOWS.model_copy(update={"min_tokens": 65}),
    ],
)
def test_groups_that_hold_all_and_few_tokens_are_dense(config):
    model = make_model("augreg")
    images = make_images(model)
    dense = features(model, images)
    assert torch.equal(features(sparsight.apply(model, config), images), dense)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", PATTERNS.values(), ids=PATTERNS)
def test_half_precision(config, dtype):
    model = make_model("dinov2_reg")
    images = make_images(model)
    wanted = features(sparsight.apply(copy.deepcopy(model), config), images)
    got = features(sparsight.apply(model.to(dtype), config), images.to(dtype))
    assert got.dtype == dtype
    assert (got.float() - wanted).norm() < 0.05 * wanted.norm()  # of four layers: rounding at 2^-8


@pytest.mark.parametrize("config", PATTERNS.values(), ids=PATTERNS)
def test_gradients_flow_and_match_the_mask(config):
    model = make_model("augreg")
    images, grads = make_images(model), []
    for one, mode in (
        (copy.deepcopy(model), Masked(seen(config, (9, 7), 1))),
        (sparsight.apply(copy.deepcopy(model), config), torch.enable_grad()),
    ):
        with mode:
            run_features(one, images).square().mean().backward()
        grads.append(one.patch_embed.proj.weight.grad)
    assert close(*grads, tolerance=1e-4)


@pytest.mark.parametrize("config", PATTERNS.values(), ids=PATTERNS)
def test_a_map_repairs_what_is_not_seen_and_is_saved(config, tmp_path):
    model = make_model("dinov3")
    plan = complete(bench_of(model, pictures_of(model, 4)), as_plan(config.completed()))
    assert set(plan.weights) == {f"local-attention.{layer}.map" for layer in range(4)}
    plain = as_plan(plan.methods[0].model_copy(update={"completion": "none"}))
    errors = [moved(model, p, pictures_of(model, 2, seed=9)) for p in (plain, plan)]
    assert errors[1] < 0.97 * errors[0]  # random weights: hardly linear
    sparsight.save(plan, tmp_path / "run")
    images = make_images(model)
    wanted = features(sparsight.apply(copy.deepcopy(model), plan), images)
    assert torch.equal(features(sparsight.apply(model, tmp_path / "run"), images), wanted)


@pytest.mark.parametrize("name", ["siglip", "augreg", "dinov3"])
def test_lattice_keys_are_those_of_the_grid(name):
    model = make_model(name)
    prefix, grid = family_in(model).prefix_tokens(model), (8, 12)
    images, dense = make_images(model, grid=grid), features(model, make_images(model, grid=grid))
    config = sparsight.SVE(layers="all", keep=1 / 4, keep_queries=1 / 8, score="lattice", min_tokens=0)
    twin = sparsight.apply(copy.deepcopy(model), config)
    n = prefix + 96
    queries, keys = (kept_count(n, share, prefix) for share in (1 / 8, 1 / 4))
    ranked = [*range(prefix), *(lattice_ranks(*grid).argsort() + prefix).tolist()]
    who = torch.zeros(n, n, dtype=torch.bool)
    who[ranked[:queries]] = who[:, ranked[:keys]] = True
    got = features(twin, images)
    assert close(got, behind(who, model, images))
    assert (got - dense).abs().max() > 1e-3 * dense.abs().max()


def test_threads_copies_and_hooks_keep_their_own_grids():
    model = sparsight.apply(make_model("augreg"), WINDOWS)
    grids = {(4, 16): None, (8, 8): None, (16, 4): None}
    images = {grid: make_images(model, batch=1, grid=grid) for grid in grids}
    wanted = {grid: features(model, images[grid]) for grid in grids}
    heard = []
    model.patch_embed.proj.register_forward_hook(lambda *_: heard.append(1))
    with ThreadPoolExecutor(3) as pool:
        for _ in range(4):
            for grid, got in zip(
                grids, pool.map(lambda g: features(model, images[g]), grids), strict=True
            ):
                assert torch.equal(got, wanted[grid])
    assert len(heard) == 12
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)._modules["blocks"]))
    assert [type(block.attn) for block in twin] == [type(block.attn) for block in model.blocks]
    twin = copy.deepcopy(model)
    sparsight.restore(model)
    assert type(model.patch_embed.proj) is torch.nn.Conv2d
    for grid in grids:
        assert torch.equal(features(twin, images[grid]), wanted[grid])


def test_gradient_checkpointing_gives_the_same_gradients():
    grads = []
    for checkpointing in (False, True):
        model = sparsight.apply(make_model("augreg"), WINDOWS).train()
        model.set_grad_checkpointing(checkpointing)
        run_features(model, make_images(model)).square().mean().backward()
        grads.append(model.patch_embed.proj.weight.grad)
    assert close(*grads, tolerance=1e-4)


NAFLEX = "has no convolution that cuts pictures into them"


@pytest.mark.parametrize("config", [WINDOWS, sparsight.SVE(layers="all", score="lattice", min_tokens=0)])
def test_a_grid_that_nobody_knows_is_one_sentence(config):
    with pytest.raises(sparsight.PlanError, match=NAFLEX):
        sparsight.apply(make_model("hf_siglip2"), config)
    packed = make_site("qwen3_vl")
    with pytest.raises(sparsight.PlanError, match=NAFLEX):
        sparsight.apply(packed, config)
    assert applied(packed) is None
    model = sparsight.apply(make_model("augreg"), config)
    tokens = torch.randn(1, 64, 48)
    with pytest.raises(sparsight.SparsightError, match="63 tokens came where none was cut") as caught:
        blocks_of(model)[0](tokens)
    assert len(str(caught.value)) <= 300
    features(model, make_images(model, grid=(4, 4)))
    with pytest.raises(sparsight.SparsightError, match=r"the last one was cut into \(4, 4\)"):
        blocks_of(model)[0](tokens)


def test_masks_run_dense_and_maps_are_refused():
    model = sparsight.apply(make_model("augreg"), WINDOWS)
    images = make_images(model)
    mask = torch.ones(64, 64, dtype=torch.bool).tril()
    with torch.no_grad():
        model.forward_features(images, attn_mask=mask)
    assert dense_calls(model)["masked"] == 4
    model = sparsight.apply(make_model("hf_dinov2"), WINDOWS)
    with pytest.raises(sparsight.SparsightError, match="has no attention map"):
        model(make_images(model), output_attentions=True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": 0}, "size"), ({"keep": 1}, "keep"), ({"layers": ()}, "layers is empty"),
        ({"layers": (3, 1)}, "must rise"), ({"pattern": "dots"}, "pattern"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(sparsight.ArgumentError, match=says):
        sparsight.LocalAttention(**settings)
    with pytest.raises(sparsight.PlanError, match="layer 7, but this model has layers 0 to 3"):
        sparsight.apply(make_model("augreg"), sparsight.LocalAttention(layers=(7,)))
