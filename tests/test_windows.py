"""Windows beside blocks of other kinds: equal to the dense block with skipped windows put back."""

import copy

import pytest
import torch
from conftest import WINDOWED, blocks_of, make_images, plan_of, run_features
from site_models import make_site
from test_sparsevit import reference

import sparsight
from sparsight.attach import applied
from sparsight.families import family_of
from sparsight.methods.sparsevit.block import WindowBlock

FIVE = {"num_hidden_layers": 5, "global_attn_indexes": [2], "image_size": 72}
SAMS = {
    "sam": lambda: make_site("sam", **FIVE),
    "sam_hq": lambda: make_site("sam_hq", **FIVE),
    "deepseek_ocr2": lambda: make_site("deepseek_ocr2", **FIVE),
    "sam3": lambda: make_site("sam3", **FIVE),
    "vitdet": lambda: make_site("vitdet", num_hidden_layers=5, window_block_indices=[0, 1, 3, 4]),
    "samvit": lambda: make_site("samvit", depth=5, global_attn_indexes=(2,)),
}  # windows of 4 x 4 tokens, which do not divide the grids below
HOSTS = WINDOWED | SAMS
TAKE_ONE_SIZE = ("Sam", "DeepseekOcr2Sam")  # transformers' SAMs, 9 x 9 tokens as configured
SCORES = ("magnitude", "standout", "map-error")


@pytest.fixture(params=HOSTS)
def model(request):
    return HOSTS[request.param]()


def grids(model):
    """Odd ones, as far as the model takes several."""
    if type(model).__name__.startswith(TAKE_ONE_SIZE) and not type(model).__name__.startswith("Sam2"):
        return ((9, 9),)
    return ((9, 7), (5, 8), (9, 7))


def pictures(model, batch=2, seed=1):
    return make_images(model, batch, grids(model)[0], seed)


def rising(model, *, first=0.0, last=0.6):
    """Other figures for every unit, from `first` to `last` in each stage."""
    return tuple(
        tuple(first + (last - first) * (n + 1) / len(units) for n in range(len(units)))
        for units in family_of(model).windows.stages(model)
    )


def close(got, wanted):
    """Float32 rounding; another kept window moves the features a thousand times as far."""
    return (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def far(got, wanted):
    return (got - wanted).abs().max() > 1e-2 * wanted.abs().max()


def test_reassembled_blocks_equal_the_blocks(model):
    family, errors = family_of(model), []

    def check(block, args, kwargs, output):
        x = family.rows(block, args[0])
        both = (family.windows.reassemble(family.parts, block, x), output)
        got, its = (y[0] if isinstance(y, tuple) else y for y in both)
        assert got.shape == its.shape
        errors.append((got - its).abs().max().item() / its.abs().max().item())

    layers = family.windows.layers(model)
    for layer in layers:
        blocks_of(model)[layer].register_forward_hook(check, with_kwargs=True)
    run_features(model, pictures(model))
    assert len(errors) == len(layers)
    # The same float32 operations in the same order, up to how kernels group sums.
    assert max(errors) < 1e-5


def test_a_stage_is_a_run_of_blocks_that_see_the_same_windows(model):
    family, images, given = family_of(model), pictures(model, batch=1), {}
    for layer, block in enumerate(blocks_of(model)):
        block.register_forward_pre_hook(
            lambda block, args, n=layer: given.update({n: args[0].shape}), with_kwargs=False
        )
    run_features(model, images)
    stages = family.windows.stages(model)
    assert len(stages) > 1 or family.global_layers(model) == ()
    for units in stages:
        layers = [n for unit in units for n in unit]
        assert layers == list(range(layers[0], layers[-1] + 1))
        assert len({(given[n], family.windows.size(blocks_of(model)[n])) for n in layers}) == 1
    together = [n for units in stages for unit in units for n in unit]
    assert not set(together) & set(family.global_layers(model))


def test_kept_windows_equal_the_dense_block_and_dropped_ones_what_it_was_given(model):
    images = pictures(model)
    dense = run_features(model, images)
    for sparsity in (rising(model), rising(model, first=0.5, last=0.5)):
        wanted = reference(model, sparsity, images)
        got = run_features(sparsight.apply(model, sparsight.SparseViT(sparsity=sparsity)), images)
        assert close(got, wanted)
        assert far(got, dense)
        sparsight.restore(model)


@pytest.mark.parametrize("score", SCORES)
def test_dropped_windows_are_completed(model, score):
    images, sparsity = pictures(model), rising(model, last=0.5)
    plan = plan_of(model, sparsight.SparseViT(sparsity=sparsity, score=score, completion="map"))
    wanted, plain = reference(model, sparsity, images, plan=plan), reference(model, sparsity, images)
    got = run_features(sparsight.apply(model, plan), images)
    assert close(got, wanted)
    assert far(got, plain)


def test_dropping_nothing_is_the_dense_model_bit_for_bit(model):
    images = pictures(model)
    dense = run_features(model, images)
    for sparsity in (0.0, 1e-4):  # as it is, and too little for one window
        sparsight.apply(model, sparsight.SparseViT(sparsity=sparsity))
        assert torch.equal(run_features(model, images), dense)
        sparsight.restore(model)


def test_a_batch_of_two_equals_two_batches_of_one_at_other_sizes_too(model):
    sparsight.apply(model, sparsight.SparseViT(sparsity=0.5))
    for grid in grids(model):
        images = make_images(model, grid=grid)
        together = run_features(model, images)
        alone = torch.cat([run_features(model, images[:1]), run_features(model, images[1:])])
        assert close(together, alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, dtype):
    images = pictures(model, batch=1)
    sparsight.apply(model, sparsight.SparseViT(sparsity=0.5))
    wanted = run_features(model, images)
    got = run_features(model.to(dtype), images.to(dtype))
    assert got.dtype == dtype
    # bfloat16 keeps 8 bits; windows of nearly equal score may change places.
    assert (got.float() - wanted).norm() <= 0.3 * wanted.norm()


def test_restore_brings_everything_back(model):
    images = pictures(model, batch=1)
    dense, keys = run_features(model, images), list(model.state_dict())
    objects, kinds = [id(m) for m in model.modules()], [type(m) for m in model.modules()]
    sparsight.apply(model, sparsight.SparseViT(sparsity=0.5))
    assert list(model.state_dict()) == keys
    assert far(run_features(model, images), dense)
    sparsight.restore(model)
    assert [id(m) for m in model.modules()] == objects
    assert [type(m) for m in model.modules()] == kinds
    assert torch.equal(run_features(model, images), dense)


def test_attention_modules_see_the_kept_windows_alone(model):
    images, seen = pictures(model, batch=1), {}
    family = family_of(model)
    sparsight.apply(model, sparsight.SparseViT(sparsity=0.5))
    for layer in family.windows.layers(model):
        attention = family.parts.attention(blocks_of(model)[layer])

        def see(module, args, kwargs, output, n=layer):
            given = args[0] if args else kwargs["hidden_states"]
            seen[n] = given.shape[0]

        attention.register_forward_hook(see, with_kwargs=True)
    run_features(model, images)
    for layer in family.windows.layers(model):
        count = len(blocks_of(model)[layer]._sparsight.shared[1].table)
        assert seen[layer] == count - round(count / 2)


def test_only_units_that_drop_windows_are_changed(model):
    stages = family_of(model).windows.stages(model)
    sparsity = tuple(
        tuple(0.5 if (stage, n) == (len(stages) - 1, len(units) - 1) else 0.0 for n in range(len(units)))
        for stage, units in enumerate(stages)
    )
    sparsight.apply(model, sparsight.SparseViT(sparsity=sparsity))
    changed = [n for n, block in enumerate(blocks_of(model)) if isinstance(block, WindowBlock)]
    assert changed == list(stages[-1][-1])


def test_windows_and_global_blocks_together(model):
    """Each is sparse on what the other leaves: windows as alone, and attention in the global blocks."""
    images, layers = pictures(model), family_of(model).global_layers(model)
    windows = sparsight.SparseViT(sparsity=rising(model), completion="map", score="standout")
    attention = sparsight.SVE(layers=layers, keep=1 / 4, score="exact", completion="map", min_tokens=0)
    plan = plan_of(model, windows, attention)
    only_sve = plan.with_(methods=[c for c in plan.methods if isinstance(c, sparsight.SVE)])
    sparse = sparsight.apply(copy.deepcopy(model), plan)
    assert applied(sparse).plan.name == "sparsevit + sve"
    # The reference for windows runs over a model whose global blocks are sparse.
    half = sparsight.apply(copy.deepcopy(model), only_sve)
    wanted = reference(half, rising(model), images, plan=plan, family=family_of(model))
    assert close(run_features(sparse, images), wanted)
    sparsight.restore(sparse)
    assert torch.equal(run_features(sparse, images), run_features(model, images))


@pytest.mark.usefixtures("crossover_at_few_tokens")
def test_one_pipeline_prepares_both_and_a_saved_run_brings_them_back(tmp_path):
    model = WINDOWED["timm_sam2"]()
    given = list(pictures(model, batch=3))
    settings = [sparsight.SVE(keep=1 / 4), sparsight.SparseViT(sparsity=0.5).completed()]
    plan = sparsight.optimize(model, given, settings, tmp_path, max_error=10.0, reuse_overlap=None)
    assert plan.sve.layers == (5, 6, 8)
    assert plan.one(sparsight.SparseViT).min_tokens == 0  # the crossover is of attention alone
    fitted = {(row["method"], row["layer"]) for row in plan.recipe["completion"]}
    assert fitted == {("sparsevit", layer) for layer in (0, 2, 3)}
    images = pictures(model, seed=7)
    errors, dense = [], run_features(model, images)
    for candidate in (plan.at_any_size(), [c.at_any_size() for c in settings]):
        if isinstance(candidate, list):
            candidate[0] = candidate[0].model_copy(update={"layers": (5, 6, 8)})
            candidate[1] = sparsight.SparseViT(sparsity=0.5)
        errors.append((run_features(sparsight.apply(model, candidate), images) - dense).norm())
        sparsight.restore(model)
    assert errors[0] < 0.9 * errors[1]  # the maps repair part of it
    assert torch.equal(
        run_features(sparsight.apply(copy.deepcopy(model), tmp_path), images),
        run_features(sparsight.apply(model, plan), images),
    )


def test_figures_for_another_model_are_refused_with_what_is_wanted(model):
    wanted = [len(units) for units in family_of(model).windows.stages(model)]
    with pytest.raises(
        sparsight.PlanError, match=r"sparsity has \[1\] figures .* this model has"
    ) as found:
        sparsight.apply(model, sparsight.SparseViT(sparsity=((0.5,),)))
    assert str(wanted) in str(found.value)
    with pytest.raises(sparsight.PlanError, match="in other layers than those of this model"):
        sparsight.apply(model, sparsight.SparseViT(sparsity=0.5, layers=(((17,),),)))
    assert applied(model) is None


def test_a_ranking_that_got_lost_is_refused_where_it_is_fitted(model):
    """A hook that returns new tensors loses the stage's ranking; by the magnitude it is made anew."""
    stages = [units for units in family_of(model).windows.stages(model) if len(units) > 1]
    images, first = pictures(model, batch=1), stages[0][0][-1]
    for score, completion in (("magnitude", "last"), ("map-error", "map")):
        settings = sparsight.SparseViT(sparsity=0.5, score=score, completion=completion)
        changed = sparsight.apply(copy.deepcopy(model), plan_of(model, settings))

        def anew(block, args, output):
            return output * 2 if isinstance(output, torch.Tensor) else (output[0] * 2, *output[1:])

        blocks_of(changed)[first].register_forward_hook(anew)
        if score == "magnitude":
            assert run_features(changed, images).isfinite().all()
        else:
            with pytest.raises(
                sparsight.SparsightError, match="shares the ranking of its stage and was not told"
            ):
                run_features(changed, images)
