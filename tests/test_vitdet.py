"""ViTDet: attention by hand made to call, maps with channels first, windows, and what it stands in."""

import copy

import pytest
import torch
from conftest import make_images, plan_of, run_features, shaken
from site_models import make_site

import sparsight
from sparsight.attach import applied
from sparsight.families import encoder_in, family_of
from sparsight.families.by_hand import calling
from sparsight.stages.bench import bench_of
from sparsight.stages.complete import complete
from sparsight.stages.look import look
from sparsight.stages.measure import measure
from sparsight.stages.observe import outputs_of

SMALL = {"num_hidden_layers": 5, "window_block_indices": [0, 1, 3, 4]}


@pytest.mark.parametrize("relative", [True, False])
@torch.no_grad()
def test_the_call_gives_what_the_host_makes_by_hand(relative):
    model = make_site("vitdet", use_relative_position_embeddings=relative, **SMALL)
    images = make_images(model, grid=(9, 7))  # windows of 4 x 4 do not divide it
    by_hand = model(images).last_hidden_state
    own = type(model.encoder.layer[0].attention).forward
    with calling(model):
        called = model(images).last_hidden_state
        _, *maps = model(images, output_attentions=True).attentions
    assert type(model.encoder.layer[0].attention).forward is own
    # The same float32 sums, grouped otherwise.
    assert (called - by_hand).abs().max() <= 1e-5 * by_hand.abs().max()
    assert maps[1].shape == (2, 3, 63, 63)


@torch.no_grad()
def test_tokens_are_rows_whatever_the_sides_of_the_map():
    model = make_site("vitdet", hidden_size=48, patch_size=2, image_size=96, **SMALL)
    images = make_images(model, 1, (5, 48))  # as wide as there are channels
    tokens, family = run_features(model, images), family_of(model)
    wanted = model(images).last_hidden_state.flatten(2).transpose(1, 2)
    assert torch.equal(tokens, wanted)
    with outputs_of(model, (1,)) as outputs:
        states = model(images, output_hidden_states=True).hidden_states
    assert torch.equal(outputs[1], states[2].permute(0, 2, 3, 1))
    assert family.prefix_tokens(model) == 0


def test_one_pipeline_fits_measures_and_shows_both():
    model = make_site("vitdet", **SMALL)
    images = list(make_images(model, 4, (12, 10)))
    methods = [
        sparsight.SVE(layers=(2,), keep=1 / 4, completion="map", min_tokens=0),
        sparsight.SparseViT(sparsity=0.5).completed(),
    ]
    plan = complete(bench_of(model, images), sparsight.Plan(methods=methods))
    assert {row["method"] for row in plan.recipe["completion"]} == {"sve", "sparsevit"}
    size = tuple(images[0].shape[1:])
    result = measure(model, plan, images, [size], repeats=1)
    assert result["fidelity"]["relative_error"] > 0
    assert not result.get("dense_calls")
    bare = plan.changed(plan.one(sparsight.SparseViT).model_copy(update={"completion": "last"}))
    assert (
        result["fidelity"]["relative_error"]
        < (measure(model, bare, images, [size], repeats=1)["fidelity"]["relative_error"])
    )
    sparse = sparsight.apply(copy.deepcopy(model), plan)
    (seen,) = look(model, sparse, images, [0], (2,))
    assert seen.maps["stage 1 skipped"].shape == (12, 10)
    assert seen.maps["layer 2 exact"].shape == (12, 10)
    settings = sparsight.Distillation(steps=2, learning_rate=1e-4)
    assert len(sparsight.stages.distil.distil(model, plan, images, settings)[1]) == 2


@torch.no_grad()
def test_a_block_with_a_convolution_after_it_keeps_its_windows_and_is_sparse_where_it_sees_all():
    model = make_site("vitdet", residual_block_indices=[0, 2], **SMALL)
    family, images = family_of(model), make_images(model)
    assert family.global_layers(model) == (2,)
    assert family.windows.layers(model) == (1, 3, 4)
    dense = run_features(model, images)
    sparsight.apply(model, sparsight.SVE(layers="all", keep=1 / 8, min_tokens=0))
    assert not torch.equal(run_features(model, images), dense)
    sparsight.restore(model)
    assert torch.equal(run_features(model, images), dense)


@torch.no_grad()
def test_inside_vitmatte_it_is_found_and_the_whole_model_runs():
    import transformers

    backbone = transformers.VitDetConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=128, patch_size=16,
        pretrain_image_size=64, window_size=4, window_block_indices=[0], num_channels=4,
        use_relative_position_embeddings=True, residual_block_indices=[1], out_features=["stage2"],
    )  # fmt: skip
    config = transformers.VitMatteConfig(
        backbone_config=backbone, hidden_size=48, convstream_hidden_sizes=[8, 16, 32],
        fusion_hidden_sizes=[32, 16, 8, 8],
    )  # fmt: skip
    model = shaken(transformers.VitMatteForImageMatting(config))
    assert type(encoder_in(model, None)).__name__ == "VitDetBackbone"
    images = torch.randn(1, 4, 128, 128, generator=torch.Generator().manual_seed(1))
    dense = model(images).alphas
    sparsight.apply(model, sparsight.SVE(layers="all", keep=1 / 8, min_tokens=0))
    assert applied(model.backbone) is not None
    assert (model(images).alphas - dense).abs().max() > 0
    sparsight.restore(model)
    assert torch.equal(model(images).alphas, dense)


def test_maps_of_a_sparse_layer_are_refused_by_name():
    model = make_site("vitdet", **SMALL)
    sparsight.apply(model, plan_of(model, sparsight.SVE(layers="all", keep=1 / 8, min_tokens=0)))
    with pytest.raises(sparsight.SparsightError, match="layer 2 is sparse and has no attention map"):
        model(make_images(model), output_attentions=True)
