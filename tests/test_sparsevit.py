"""SparseViT on Swin: equal to the dense block with windows selected, at sizes that need padding."""

import copy

import pytest
import timm
import torch
from conftest import SWIN_GRID, SWINS, make_hf_swin, make_images, make_model, make_timm_swin, plan_of
from test_apply import mapped_by_hand, tensors_of
from torch.nn.functional import layer_norm, pad

import sparsight
from sparsight.attach import applied, family_in
from sparsight.families import family_of
from sparsight.identity import identity
from sparsight.methods.sparsevit.config import dropped_count
from sparsight.models import load_model
from sparsight.ops.windows import window_table
from sparsight.plan import Plan
from sparsight.stages import timing
from sparsight.stages.arm import arm_of
from sparsight.stages.compare import compare
from sparsight.stages.measure import fused

SPARSITY = ((0.6,), (0.25, 0.5))
SETTINGS = sparsight.SparseViT(sparsity=SPARSITY)


@pytest.fixture(params=SWINS)
def model(request):
    return SWINS[request.param]()


def pictures(model, batch=2, seed=1):
    return make_images(model, batch, SWIN_GRID, seed)


def features(model, images):
    with torch.no_grad():
        return family_in(model).features(model, images)


def cut(maps, window, shift, rolls_first):
    """Maps (b, h, w) in windows (b, rows, columns, tall, wide), literally as a host does it."""
    (tall, wide), back = window, (-shift[0], -shift[1])
    padding = (0, -maps.shape[2] % wide, 0, -maps.shape[1] % tall)
    if rolls_first:
        maps = pad(maps.roll(back, (1, 2)), padding)
    else:
        maps = pad(maps, padding).roll(back, (1, 2))
    return maps.unflatten(2, (-1, wide)).unflatten(1, (-1, tall)).transpose(2, 3)


def joined(windows, grid, shift, rolls_first):
    """The reverse of `cut`."""
    maps = windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    if rolls_first:
        return maps[:, : grid[0], : grid[1]].roll(shift, (1, 2))
    return maps.roll(shift, (1, 2))[:, : grid[0], : grid[1]]


def strength(score, x, tensors):
    """How much each token of (b, n, c) counts in its window."""
    normal = layer_norm(x, x.shape[2:])
    if score == "magnitude":
        return x.abs().mean(2)
    if score == "standout":
        return (normal - normal.mean(1, keepdim=True)).square().sum(2)
    log_square = mapped_by_hand(torch.cat([normal, normal**2], 2), tensors["error"])
    return log_square.exp().sqrt()  # the error itself


def reference(model, sparsity, images, kept=None, plan=None, family=None):
    """Features with every block run densely, and its result taken in the kept windows alone.

    The masks (b, h, w) of kept tokens are added to the list `kept`; a `plan` has the score and the maps.
    """
    by = plan.one(sparsight.SparseViT).score if plan else "magnitude"
    family, magnitudes = family or family_of(model), {}
    windows, placed = (
        family.windows,
        {
            layer: (place, dropped)
            for place, (units, figures) in enumerate(
                zip(family.windows.stages(model), sparsity, strict=True)
            )
            for unit, dropped in zip(units, figures, strict=True)
            for layer in unit
        },
    )

    def select(layer):
        def hook(block, args, kwargs, output):
            host = dict(kwargs, **({"input_dimensions": args[1]} if len(args) > 1 else {}))
            y = output if isinstance(output, torch.Tensor) else output[0]
            x, y = family.rows(block, args[0]), family.rows(block, y)
            grid = windows.grid(x, host)
            stage, dropped = placed[layer]
            if dropped == 0:
                return None
            if stage not in magnitudes:
                own = tensors_of(plan, "sparsevit", layer) if plan else {}
                magnitudes[stage] = strength(by, x.flatten(1, -2), own).view(len(x), *grid)
            setting = windows.size(block), windows.shift(block, grid), windows.rolls_first
            inside = cut(magnitudes[stage], *setting)
            score = inside.square().sum((3, 4)).flatten(1)
            count = score.shape[1] - round(score.shape[1] * dropped)
            strong = torch.zeros_like(score).scatter_(1, score.topk(count).indices, 1.0)
            strong = strong.view(*inside.shape[:3], 1, 1).expand_as(inside)
            mask = joined(strong, grid, *setting[1:]).bool()
            if kept is not None:
                kept.append(mask)
            rest = x
            if plan and (table := tensors_of(plan, "sparsevit", layer).get("map")) is not None:
                rest = x + mapped_by_hand(layer_norm(x, x.shape[-1:]), table)
            new = torch.where(mask.view(*x.shape[:-1], 1), y, rest)
            if new.shape != args[0].shape:  # maps with channels first
                new = new.permute(0, 3, 1, 2)
            return new if isinstance(output, torch.Tensor) else (new, *output[1:])

        return hook

    handles = [
        block.register_forward_hook(select(layer), with_kwargs=True)
        for layer, block in enumerate(family.blocks(model))
        if layer in placed
    ]
    try:
        return features(model, images)
    finally:
        for handle in handles:
            handle.remove()


def test_reassembled_blocks_equal_the_blocks(model):
    family, errors = family_of(model), []

    def check(block, args, kwargs, output):
        host = dict(kwargs, **({"input_dimensions": args[1]} if len(args) > 1 else {}))
        got = family.windows.reassemble(family.parts, block, args[0], **host)
        ours, its = (r if isinstance(r, torch.Tensor) else r[0] for r in (got, output))
        assert ours.shape == its.shape
        errors.append((ours - its).abs().max().item())

    for block in family.blocks(model):
        block.register_forward_hook(check, with_kwargs=True)
    features(model, pictures(model))
    # The same float32 operations in the same order, up to how kernels group sums.
    assert len(errors) == 6
    assert max(errors) < 1e-5


def test_facts(model):
    family = family_of(model)
    assert family.global_layers(model) == ()
    assert family.layers_with("windows", model) == tuple(range(6))
    assert family.windows.stages(model) == (((0, 1),), ((2, 3), (4, 5)))
    assert [family.dim(b) for b in family.blocks(model)] == [16] * 2 + [32] * 4
    assert [family.heads(b) for b in family.blocks(model)] == [1] * 2 + [2] * 4
    assert features(model, pictures(model)).shape == (2, 12 * 10, 32)


@pytest.mark.parametrize("rolls_first", [True, False])
def test_the_table_of_windows_is_the_hosts_partition(rolls_first):
    grid, window, shift = (7, 9), (4, 5), (2, 2)
    numbers = torch.arange(1, 64).view(1, *grid)  # from 1, so that padding is another number
    wanted = cut(numbers, window, shift, rolls_first).flatten(3).flatten(1, 2)[0]
    table = window_table(grid, window, shift, rolls_first)
    assert torch.equal(torch.where(table == 63, -1, table) + 1, wanted)


@pytest.mark.parametrize("sparsity", [SPARSITY, ((0.0,), (0.0, 0.75)), ((0.3,), (0.5, 0.5))])
def test_kept_windows_equal_the_dense_block_and_dropped_ones_what_it_was_given(model, sparsity):
    images = pictures(model)
    wanted, dense = reference(model, sparsity, images), features(model, images)
    got = features(sparsight.apply(model, sparsight.SparseViT(sparsity=sparsity)), images)
    # Float32 rounding; another kept window moves the features a thousand times as far.
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert (got - dense).abs().max() > 1e-2 * dense.abs().max()


@pytest.mark.parametrize("score", ["magnitude", "standout", "map-error"])
@pytest.mark.parametrize("sparsity", [SPARSITY, ((0.0,), (0.5, 0.75))])
def test_dropped_windows_are_completed(model, score, sparsity):
    images = pictures(model)
    plan = plan_of(model, sparsight.SparseViT(sparsity=sparsity, score=score, completion="map"))
    wanted = reference(model, sparsity, images, plan=plan)
    plain = features(
        sparsight.apply(copy.deepcopy(model), sparsight.SparseViT(sparsity=sparsity)), images
    )
    got = features(sparsight.apply(model, plan), images)
    # As above; without the maps the features are elsewhere.
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert (got - plain).abs().max() > 1e-2 * plain.abs().max()


def test_windows_of_later_blocks_are_among_those_of_earlier_ones(model):
    kept = []
    reference(model, SPARSITY, pictures(model), kept)
    assert len(kept) == 6
    for early, late in ((2, 4), (3, 5)):  # stage 2: regular blocks, and shifted ones
        assert (kept[early] | ~kept[late]).all()
        assert kept[late].sum() < kept[early].sum()


@pytest.mark.parametrize(("windows", "kept"), [(10, 2), (20, 4), (100, 20), (9, 2), (1, 0)])
def test_counts_are_whole_numbers_without_the_error_of_a_float(windows, kept):
    assert windows - dropped_count(windows, 0.8) == kept


@pytest.mark.parametrize("sparsity", [0.0, 0.01])  # as it is, and too little for one window
def test_dropping_nothing_is_the_dense_model_bit_for_bit(model, sparsity):
    images = pictures(model)
    dense = features(model, images)
    sparsight.apply(model, sparsight.SparseViT(sparsity=sparsity))
    assert torch.equal(features(model, images), dense)


def test_a_batch_of_two_equals_two_batches_of_one(model):
    images = pictures(model)
    sparsight.apply(model, SETTINGS)
    together = features(model, images)
    alone = torch.cat([features(model, images[:1]), features(model, images[1:])])
    # Matrix products of other shapes round differently; another kept window would show as 1e-2.
    assert (together - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_sizes_may_change_from_call_to_call():
    model = make_hf_swin()
    sizes = [make_images(model, 1, grid) for grid in (SWIN_GRID, (16, 24), SWIN_GRID)]
    wanted = [reference(model, SPARSITY, images) for images in sizes]
    sparsight.apply(model, SETTINGS)
    for images, its in zip(sizes, wanted, strict=True):
        assert (features(model, images) - its).abs().max() <= 1e-5 * its.abs().max()
    changed = make_timm_swin()
    sparsight.apply(changed, SETTINGS)
    features(changed, pictures(changed))
    other = make_timm_swin(size_px=(64, 100))
    wanted = reference(other, SPARSITY, make_images(other, 1, (16, 25)))
    changed.set_input_size((64, 100), window_size=(4, 5))
    got = features(changed, make_images(other, 1, (16, 25)))
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_restore_brings_everything_back(model):
    images = pictures(model)
    dense, keys = features(model, images), list(model.state_dict())
    objects, attributes = [id(m) for m in model.modules()], dict(model.__dict__)
    sparsight.apply(model, SETTINGS)
    assert list(model.state_dict()) == keys
    assert not torch.equal(features(model, images), dense)
    sparsight.restore(model)
    assert [id(m) for m in model.modules()] == objects
    assert model.__dict__ == attributes
    assert torch.equal(features(model, images), dense)


def test_a_run_is_saved_and_loaded(model, tmp_path):
    images = pictures(model)
    plan = Plan(methods=(SETTINGS,), model=identity(model, family_of(model)))
    wanted = features(sparsight.apply(model, plan), images)
    sparsight.save(model, tmp_path)
    plan = applied(model).plan
    sparsight.restore(model)
    assert sparsight.load(tmp_path) == plan
    assert plan.one(sparsight.SparseViT).layers == family_of(model).windows.stages(model)
    assert torch.equal(features(sparsight.apply(model, tmp_path), images), wanted)


def test_only_pairs_that_drop_windows_are_changed(model):
    before = list(family_of(model).blocks(model))
    kind = type(before[0])
    sparsight.apply(model, sparsight.SparseViT(sparsity=((0,), (0, 0.5))))
    after = list(family_in(model).blocks(model))
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert [type(block) is kind for block in after] == [True] * 4 + [False] * 2
    assert all(isinstance(block, kind) for block in after)


def test_blocks_show_the_usual_shapes_and_a_hook_may_change_the_tokens(model):
    images, shown = pictures(model), []
    sparsight.apply(model, SETTINGS)
    blocks = family_in(model).blocks(model)
    plain = features(model, images)
    for block in blocks:
        block.register_forward_hook(lambda block, args, out: shown.append((args[0], out)))
    assert torch.equal(features(model, images), plain)
    for given, made in shown:
        assert (made if isinstance(made, torch.Tensor) else made[0]).shape == given.shape

    def double(block, args, out):
        return out * 2 if isinstance(out, torch.Tensor) else (out[0] * 2, *out[1:])

    blocks[2].register_forward_hook(double)
    assert (features(model, images) - plain).norm() > 0.01 * plain.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_formats(model, dtype):
    images = pictures(model)
    sparsight.apply(model, SETTINGS)
    wanted = features(model, images)
    got = features(model.to(dtype), images.to(dtype))
    assert got.dtype == dtype
    # bfloat16 keeps 8 bits; windows of nearly equal score may change places.
    assert (got - wanted).norm() <= (0.2 if dtype == torch.bfloat16 else 1e-4) * wanted.norm()


def test_gradients_reach_every_weight_and_survive_a_run_without_them(model):
    images = pictures(model)
    sparsight.apply(model, SETTINGS)
    with torch.inference_mode():
        family_in(model).features(model, images)
    family_in(model).features(model, images).square().mean().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias of the keys moves all logits of a query alike, and transformers' pooler is not read.
    assert not [n for n in missing if "pooler" not in n and "k_proj.bias" not in n]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_gradients_are_the_same_or_refused(reentrant):
    model, gradients = make_timm_swin(), []
    sparsight.apply(model, SETTINGS)
    x = model.layers[1].downsample(torch.randn(1, 23, 19, 16)).detach().requires_grad_()

    def through(run):
        y = x
        for block in model.layers[1].blocks:
            y = run(block, y)
        y.square().mean().backward()
        return next(model.layers[1].blocks[3].parameters()).grad

    gradients.append(through(lambda block, y: block(y)).clone())
    model.zero_grad()

    def checkpointed():
        return through(lambda *a: torch.utils.checkpoint.checkpoint(*a, use_reentrant=reentrant))

    if reentrant:
        with pytest.raises(sparsight.SparsightError, match="choose use_reentrant=False"):
            checkpointed()
    else:
        torch.testing.assert_close(checkpointed(), gradients[0], atol=1e-6, rtol=1e-4)


def test_operations_fall_by_the_windows_dropped(model):
    images = pictures(model, batch=1)
    sparse = sparsight.apply(copy.deepcopy(model), sparsight.SparseViT(sparsity=((0.5,), (0, 0))))
    with fused(model, sparse):
        counts = [timing.gflops(lambda m=m: features(m, images)) for m in (model, sparse)]
    count, l = (24, 20) if family_of(model).library == "timm" else (30, 16)  # noqa: E741
    tokens, dim, kept = 23 * 19, 16, count // 2
    # Linear layers: 4 d^2 around attention, in padded windows, and 8 d^2 in the MLP; attention 2 l d
    # each way.  As pairs of a multiplication and an addition, in two blocks.
    dense = count * l * (4 * dim**2 + 2 * l * dim) + tokens * 8 * dim**2
    ours = kept * l * (12 * dim**2 + 2 * l * dim)
    assert (counts[0] - counts[1]) * 1e9 == pytest.approx(4 * (dense - ours), rel=1e-6)


def test_compare_has_rows_for_what_fits_a_swin():
    model = make_timm_swin(size_px=(128, 128))
    result = compare(model, list(make_images(model, 1, (32, 32))), repeats=1)
    found = [row["method"] for row in result["rows"]]
    assert set(found) == {"dense", "lower-resolution", "sparsevit"}
    assert {"sve", "tome", "cls-topk"} <= result["left_out"].keys()
    assert "attend within windows" in result["left_out"]["tome"]
    rows = [row for row in result["rows"] if row["method"] == "sparsevit"]
    for completed in (False, True):  # each from mild to hard
        counts = [row["gflops"] for row in rows if ("map" in row["setting"]) == completed]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] < result["rows"][0]["gflops"]
    assert SETTINGS.label() == "drop 60, 25-50 % of the windows"


def test_a_lower_resolution_leaves_the_windows_as_they_are():
    model = make_timm_swin(size_px=(128, 128))
    arm = arm_of(model, Plan(methods=(sparsight.LowerResolution(scale=0.5),)), (128, 128))
    assert {block.window_size for block in family_of(model).blocks(arm.model)} == {(4, 5)}
    with torch.no_grad():
        assert arm.full_size(torch.randn(1, 3, 128, 128)).shape == (1, 16 * 16, 32)


def test_too_few_windows_for_the_sparsity_is_an_error_with_the_stage(model):
    sparsight.apply(model, sparsight.SparseViT(sparsity=((0.5,), (0.5, 0.99))))
    with pytest.raises(
        sparsight.SparsightError,
        match=r"stage 2 has (6|9) windows .* sparsity 0.99 would leave none.* (5 of 6|8 of 9);",
    ):
        features(model, pictures(model))


@pytest.mark.parametrize(
    ("sparsity", "reason"),
    [
        (((0.5,), (0.5, 0.4)), "sparsity falls within stage 2"),
        (((0.5,), (0.5, 1.0)), "less than 1"),
        (-0.1, "greater than or equal to 0"),
    ],
)
def test_impossible_settings_are_refused(sparsity, reason):
    with pytest.raises(ValueError, match=reason):
        sparsight.SparseViT(sparsity=sparsity)


def test_settings_for_another_swin_are_refused(model):
    with pytest.raises(sparsight.PlanError, match=r"\[1, 1\] figures .* has \[1, 2\] pairs"):
        sparsight.apply(model, sparsight.SparseViT(sparsity=((0.5,), (0.5,))))
    assert applied(model) is None


def test_methods_are_refused_where_the_attention_is_of_the_other_kind(model):
    with pytest.raises(sparsight.PlanError, match=r"SVE needs global .*_swin(_v2)? attend within"):
        sparsight.apply(model, sparsight.SVE(layers="all"))
    with pytest.raises(sparsight.PlanError, match=r"SVE needs global .*_swin(_v2)? attend within"):
        sparsight.optimize(model, list(pictures(model)))
    plain = make_model("augreg")
    with pytest.raises(sparsight.PlanError, match=r"SparseViT drops windows, .* block of timm_vit"):
        sparsight.apply(plain, SETTINGS)
    assert applied(model) is None
    assert applied(plain) is None


def test_other_swins_are_refused_with_the_reason():
    small = {"depths": (2,), "num_heads": (2,), "embed_dim": 16}
    other = timm.create_model("swinv2_cr_tiny_224", img_size=64, window_size=4, **small)
    with pytest.raises(sparsight.UnsupportedModelError, match="it is a Swin v2 CR"):
        sparsight.apply(other, SETTINGS)
    for name, make in SWINS.items():
        with pytest.raises(sparsight.UnsupportedModelError, match=f"{name}, .*an even number of blocks"):
            family_of(make(depths=[2, 3]))


def test_a_small_picture_does_not_change_transformers_model():
    model = make_hf_swin()
    sparsight.apply(model, sparsight.SparseViT(sparsity=((0,), (0.2, 0.2))))
    large, small = pictures(model), make_images(model, 1, (8, 8))  # stage 2: 4 x 4 tokens, one window
    wanted = features(model, large)
    got = features(model, small)
    assert torch.equal(features(model, large), wanted)
    sparsight.restore(model)
    assert torch.equal(features(model, small), got)  # the host's own answer, which is its last good one
    with pytest.raises(sparsight.UnsupportedModelError, match="gave up the shift of a block for good"):
        sparsight.apply(model, SETTINGS)


def test_the_backbone_of_a_classifier_drops_windows_and_shows_hidden_states():
    from transformers import SwinConfig, SwinForImageClassification

    small = {"window_size": 4, "embed_dim": 16, "depths": [2, 4], "num_heads": [1, 2]}
    torch.manual_seed(0)
    model = SwinForImageClassification(SwinConfig(image_size=64, num_labels=5, **small)).eval()
    images = torch.randn(1, 3, 92, 76)
    with torch.no_grad():
        dense = model(images, output_hidden_states=True)
        sparsight.apply(model, SETTINGS, module="swin")
        sparse = model(images, output_hidden_states=True)
        with pytest.raises(sparsight.SparsightError, match="layer 0 is sparse and has no attention map"):
            model(images, output_attentions=True)
    assert not torch.equal(sparse.logits, dense.logits)
    shapes = [[state.shape for state in out.reshaped_hidden_states] for out in (dense, sparse)]
    assert shapes[0] == shapes[1]


def test_the_command_line_loads_swin_with_its_windows_as_they_were(tmp_path):
    small = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)}
    timm.models.save_for_hf(
        timm.create_model("swin_tiny_patch4_window7_224", **small), tmp_path, model_args=small,
        safe_serialization=True,
    )  # fmt: skip
    loaded = load_model(str(tmp_path), (256, 320)).model
    assert {block.window_size for block in family_of(loaded).blocks(loaded)} == {(7, 7)}
    assert loaded.layers[0].blocks[1].attn_mask is not None  # made once, not at every call
    assert features(loaded, torch.randn(1, 3, 256, 320)).shape == (1, 32 * 40, 32)


def test_a_search_chooses_sparsities_by_stage_and_pair(tmp_path):
    from sparsight.stages.search import Budget, Search, search

    model = make_timm_swin()
    found = search(
        model, list(pictures(model, 4)), Budget(speedup=1e-3), tmp_path, sparsight.SparseViT(),
        Search(trials=8, population=4),
    )  # fmt: skip
    assert [len(stage) for stage in found.one(sparsight.SparseViT).by_stage] == [1, 2]
    assert sparsight.load(tmp_path) == found
    features(sparsight.apply(model, found), pictures(model))


def test_the_genes_of_a_search_are_numbers_of_windows_that_can_be_dropped():
    from sparsight.stages.search.windows import WindowPart, window_part

    space = WindowPart(sparsight.SparseViT(), (1, 1, 3), (30, 1, 4))
    genes = space.genes
    assert len(genes["stage.1.unit.1"]) == 9
    assert genes["stage.2.unit.1"] == [0.0]  # a single window stays
    assert genes["stage.3.unit.2"] == [0.0, 0.2, 0.4, 0.7]  # none, 1, 2 or 3 of 4
    none = dict.fromkeys(genes, 0)
    assert space.settings(none) is None
    mixed = space.settings(none | {"stage.3.unit.1": 3, "stage.3.unit.3": 1, "stage.1.unit.1": 8})
    assert mixed.sparsity == ((0.8,), (0.0,), (0.0, 0.2, 0.7))
    assert all(set(start) == set(genes) for start in space.starts())
    assert len({space.settings(start) for start in space.starts()}) == 6
    for make, counts in ((make_timm_swin, (24, 6)), (make_hf_swin, (30, 9))):
        model = make()
        assert window_part(model, sparsight.SparseViT(), pictures(model, 1)).counts == counts


def test_sparsities_are_drawn_by_the_step_and_rise_in_every_stage_that_drops():
    from sparsight.stages.adapt import Adaptation, drawn

    plan = sparsight.SparseViT(sparsity=((0.1,), (0.0,), (0.1,) * 3))
    draws = [drawn(plan, step, Adaptation()).by_stage for step in range(200)]
    assert draws == [drawn(plan, step, Adaptation()).by_stage for step in range(200)]
    assert {d[1] for d in draws} == {(0.0,)}
    # In 200 draws the chance that one of nine figures never comes is 9 x (8/9)^200 < 1e-9.
    assert {d[0][0] for d in draws} == {tenth / 10 for tenth in range(9)}
    assert all(list(d[2]) == sorted(d[2]) for d in draws)
    assert len({d[2] for d in draws}) > 50  # of 165


def test_adaptation_brings_the_sparse_model_closer_at_any_sparsity(model):
    images = list(pictures(model))
    before = copy.deepcopy(model.state_dict())
    settings = sparsight.Adaptation(steps=30, learning_rate=1e-3, tenths=6)
    adapted, losses = sparsight.adapt(model, Plan(methods=(SETTINGS,)), images, settings)
    assert len(losses) == 30
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert applied(model) is None
    assert all(name.removeprefix("model.") in before for name in adapted.weights)
    dense, stack = features(model, torch.stack(images)), torch.stack(images)
    for sparsity in (SPARSITY, ((0.3,), (0.3, 0.3))):
        method, errors = sparsight.SparseViT(sparsity=sparsity), []
        for candidate in (Plan(methods=(method,)), adapted.changed(method)):
            errors.append((features(sparsight.apply(model, candidate), stack) - dense).norm())
            sparsight.restore(model)
        assert errors[1] < 0.9 * errors[0]


def test_a_stage_too_small_for_a_draw_is_an_error_before_the_first_step(tmp_path):
    model = make_timm_swin()
    settings = sparsight.Adaptation(steps=1, tenths=9)  # 9 tenths of 6 windows are 5, of 4 are 4
    sparsight.adapt(model, Plan(methods=(SETTINGS,)), list(pictures(model)), settings)
    small = make_timm_swin(size_px=(64, 64))
    with pytest.raises(sparsight.SparsightError, match=r"stage 2 has 4 windows .* 0.9 would leave none"):
        sparsight.adapt(small, Plan(methods=(SETTINGS,)), [torch.randn(3, 64, 64)], settings, tmp_path)
    assert not list(tmp_path.iterdir())


def test_misalignment_is_of_the_ranking_and_not_of_the_scale():
    from sparsight.stages.adapt import misalignment

    strong = torch.rand(2, 50, generator=torch.Generator().manual_seed(7))
    assert misalignment(strong, 3 * strong.square() + 1).item() == pytest.approx(0, abs=1e-5)
    assert misalignment(strong, -strong.square()).item() == pytest.approx(2, abs=1e-5)
    assert misalignment(torch.ones(2, 50), strong).item() == 1  # nothing stands out


def test_alignment_makes_magnitudes_follow_what_stands_out():
    from sparsight.ops.fidelity import salience
    from sparsight.stages.adapt import misalignment
    from sparsight.stages.observe import inputs_of, outputs_of

    model = make_timm_swin()
    images, found = list(pictures(model)), []
    with torch.no_grad(), outputs_of(model, [5]) as wanted:
        model.forward_features(torch.stack(images))
    target = salience(wanted[5].flatten(1, 2), prefix=0, power=2.0)
    for align in (0.0, 1.0):
        settings = sparsight.Adaptation(steps=30, batch=2, learning_rate=1e-3, tenths=6, align=align)
        plan, _ = sparsight.adapt(model, Plan(methods=(SETTINGS,)), images, settings)
        sparsight.apply(model, plan)
        with inputs_of(model, [2]) as given:
            features(model, torch.stack(images))
        found.append(misalignment(given[2].flatten(1, 2).abs().mean(2), target).item())
        sparsight.restore(model)
    assert (
        found[1] < found[0] - 0.1
    )  # a tenth of a correlation: ten times what noise of 120 tokens makes


def test_an_interrupted_adaptation_goes_on_to_the_same_weights(tmp_path):
    model = make_timm_swin()
    images, plan = list(pictures(model)), Plan(methods=(SETTINGS,))
    settings = sparsight.Adaptation(steps=4, learning_rate=1e-3, tenths=6)
    wanted = sparsight.adapt(model, plan, images, settings)

    class Interrupted(list):
        def __getitem__(self, index):
            self.read = getattr(self, "read", 0) + 1
            if self.read == 3:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        sparsight.adapt(model, plan, Interrupted(images), settings, tmp_path)
    again = sparsight.adapt(model, plan, images, settings, tmp_path)
    assert again == wanted


def test_adaptation_with_labels_uses_the_loss_it_is_given():
    model = make_timm_swin()
    labelled = [(picture, torch.tensor(label)) for label, picture in enumerate(pictures(model))]

    def loss(student, images, labels):
        logits = student.forward_features(images).mean((1, 2))
        return torch.nn.functional.cross_entropy(logits, labels)

    settings = sparsight.Adaptation(steps=20, batch=2, learning_rate=1e-3, tenths=6, align=0)
    plan, losses = sparsight.adapt(model, Plan(methods=(SETTINGS,)), labelled, settings, loss=loss)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])  # two pictures are soon known by heart
    assert plan.recipe["adaptation"]["labels"] is True
    with pytest.raises(sparsight.PlanError, match="adapt is for SparseViT alone, not for sve"):
        sparsight.adapt(model, Plan(methods=(sparsight.SVE(layers=(0,)),)), labelled)
