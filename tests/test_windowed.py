"""Encoders with windowed and global blocks: windowed ones stay, global ones obey every invariant."""

import copy

import pytest
import torch
from conftest import (
    SAM2_GLOBAL,
    WINDOWED,
    attentions_of,
    make_hf_sam2,
    make_images,
    make_timm_sam2,
    plan_of,
    sam2_config,
    shaken,
)
from test_apply import OF_TOKENS, SCORES, assert_sparse_equals, features, make_plan, reference

import sparsight
from sparsight.attach import applied, family_in
from sparsight.families import family_of
from sparsight.identity import identity
from sparsight.models import load_model
from sparsight.plan import Plan

GROUPS = {"alone": (), "grouped": ((5, 6),)}


@pytest.fixture(params=WINDOWED)
def model(request):
    return WINDOWED[request.param]()


def test_reassembled_blocks_equal_the_global_blocks(model):
    family, errors = family_of(model), []

    def check(block, args, output):
        assert args[0].ndim == 4
        errors.append((family.parts.reassemble(block, args[0]) - output).abs().max().item())

    for layer in family.global_layers(model):
        family.blocks(model)[layer].register_forward_hook(check)
    features(model, make_images(model))
    # The same float32 operations in the same order, up to how kernels group sums.
    assert len(errors) == 3
    assert max(errors) < 1e-5


def test_facts(model):
    family, images = family_of(model), make_images(model)
    assert family.global_layers(model) == SAM2_GLOBAL
    assert family.patch_px(model) == (32, 32)
    blocks = family.blocks(model)
    assert [family.dim(b) for b in blocks] == [16, 32, 32, 32, 64, 64, 64, 128, 128]
    assert [family.heads(b) for b in blocks] == [1, 2, 2, 2, 4, 4, 4, 8, 8]
    shape = (2, 9 * 7, 128) if family.library == "timm" else (2, 18 * 14, 24)
    assert features(model, images).shape == shape


def test_windows_set_the_step_of_the_picture():
    model = make_timm_sam2(window_spec=(12, 4, 4, 3))
    assert family_of(model).patch_px(model) == (96, 96)  # 4 px x lcm(2 x 2 x 2 poolings, 12)
    assert features(model, make_images(model, grid=(2, 3))).shape == (2, 6 * 9, 128)


@pytest.mark.parametrize("completion", ["none", "map"])
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("score", [*SCORES, *OF_TOKENS])
def test_sparse_attention_equals_the_masked_reference(model, score, groups, completion):
    images = make_images(model)
    plan = make_plan(model, score, groups, keep_queries=1 / 6, completion=completion)
    wanted, dense = reference(model, plan, images), features(model, images)
    assert_sparse_equals(wanted, features(sparsight.apply(model, plan), images), dense)


@pytest.mark.parametrize("completion", ["last", "map"])
def test_only_some_tokens_go_through_the_mlp(model, completion):
    images = make_images(model)
    routing = sparsight.MLPRouting(completion=completion, keep=(1 / 3, 1.0, 1 / 5), min_tokens=0,
                                   layers=SAM2_GLOBAL)  # fmt: skip
    plan = plan_of(model, routing)
    wanted, dense = reference(model, plan, images), features(model, images)
    assert_sparse_equals(wanted, features(sparsight.apply(model, plan), images), dense)


@pytest.mark.parametrize("score", SCORES)
def test_keeping_everything_equals_dense(model, score):
    images = make_images(model)
    dense = features(model, images)
    plan = make_plan(model, score, GROUPS["grouped"], keep=1.0)
    assert torch.equal(features(sparsight.apply(model, plan), images), dense)


def test_a_batch_of_two_equals_two_batches_of_one(model):
    images = make_images(model)
    sparsight.apply(model, make_plan(model, groups=GROUPS["grouped"]))
    together = features(model, images)
    alone = torch.cat([features(model, images[:1]), features(model, images[1:])])
    # Matrix products of other shapes round differently; a different kept set would show as 1e-3.
    assert (together - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_what_blocks_show_is_in_the_original_order_and_layout(model):
    images = make_images(model)
    plan, wanted, got = make_plan(model, "exact", GROUPS["grouped"]), [], {}
    reference(model, plan, images, wanted)
    sparsight.apply(model, plan)
    blocks = family_in(model).blocks(model)
    for layer in SAM2_GLOBAL:
        blocks[layer].register_forward_hook(lambda _, args, out, n=layer: got.setdefault(n, out))
    features(model, images)
    for layer, tokens in zip(SAM2_GLOBAL, wanted, strict=True):
        assert got[layer].shape == tokens.shape
        assert (got[layer] - tokens).abs().max() <= 1e-5 * tokens.abs().max()


def test_restore_brings_everything_back(model):
    images = make_images(model)
    dense = features(model, images)
    objects, attributes = [id(m) for m in model.modules()], dict(model.__dict__)
    values = {k: v.clone() for k, v in model.state_dict().items()}
    key = next(k for k in values if "blocks.5" in k)
    plan = make_plan(model, "linear").with_(weights={f"model.{key}": values[key] + 1})
    assert sparsight.apply(model, plan) is model
    assert list(model.state_dict()) == list(values)
    assert torch.equal(model.state_dict()[key], values[key] + 1)
    assert (features(model, images) - dense).abs().max() > 1e-3
    sparsight.restore(model)
    assert [id(m) for m in model.modules()] == objects
    assert dict(model.__dict__) == attributes
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    assert torch.equal(features(model, images), dense)


def test_half_precision(model):
    images = make_images(model)
    plan = make_plan(model, "exact", GROUPS["grouped"])
    wanted = features(sparsight.apply(copy.deepcopy(model), plan), images)
    got = features(sparsight.apply(model.bfloat16(), plan), images.bfloat16())
    assert got.dtype == torch.bfloat16
    # 8 bits of precision, and some tokens cross the border of the kept set.
    assert (got.float() - wanted).norm() < 0.3 * wanted.norm()


def test_all_means_the_global_layers_and_windowed_ones_are_refused(model):
    sparsight.apply(model, sparsight.SVE(layers="all"))
    assert applied(model).plan.sve.layers == SAM2_GLOBAL
    sparsight.restore(model)
    with pytest.raises(sparsight.PlanError, match=r"layer 4 .* windows.* global attention, 5, 6, 8"):
        sparsight.apply(model, sparsight.SVE(layers=(4, 5)))
    with pytest.raises(sparsight.PlanError, match="has layers 0 to 8"):
        sparsight.apply(model, sparsight.SVE(layers=(5, 9)))
    plan = Plan(methods=(sparsight.SVE(layers=(8,), score="linear"),))
    plan = plan.with_(weights={"sve.8.projector": torch.zeros(64)})
    with pytest.raises(sparsight.PlanError, match=r"sve.8.projector' has shape \(64,\), not \(128,\)"):
        sparsight.apply(model, plan)
    assert applied(model) is None


def test_an_encoder_without_global_blocks_can_drop_windows_alone():
    model = make_timm_sam2(global_att_blocks=())
    with pytest.raises(sparsight.PlanError, match="SVE needs global attention"):
        sparsight.apply(model, sparsight.SVE(layers="all"))
    sparsight.apply(model, sparsight.SparseViT(sparsity=0.3))
    assert features(model, make_images(model)).isfinite().all()
    # Block 7 pools its queries: it has no window and cannot become sparse all the same.
    model = make_timm_sam2(global_att_blocks=(7, 8))
    assert family_of(model).global_layers(model) == (8,)


def test_a_run_is_saved_with_its_widths_and_refused_by_another_encoder(model, tmp_path):
    images = make_images(model)
    family = family_of(model)
    plan = make_plan(model, "linear").with_(model=identity(model, family))
    assert plan.model.dim == (16, 32, 32, 32, 64, 64, 64, 128, 128)
    wanted = features(sparsight.apply(model, plan), images)
    sparsight.save(model, tmp_path)
    sparsight.restore(model)
    assert sparsight.load(tmp_path) == plan
    assert torch.equal(features(sparsight.apply(model, tmp_path), images), wanted)
    other = WINDOWED[family.name](seed=1)
    with pytest.raises(sparsight.PlanError, match="block 0 of this model differs"):
        sparsight.apply(other, tmp_path)


def test_analysis_and_projectors_look_at_global_layers_alone(model):
    from sparsight.stages.calibrate import analyze
    from sparsight.stages.predict import fit_projectors

    pictures = list(make_images(model, batch=3))
    weights = fit_projectors(model, pictures, (5, 8))
    assert [w.shape for w in weights.values()] == [(64,), (128,)]
    found = analyze(model, pictures, projectors={5: weights["sve.5.projector"]})
    assert [layer.layer for layer in found.layers] == list(SAM2_GLOBAL)
    assert found.tokens == 18 * 14
    # A blind choice of 1/8 of the tokens finds 1/8 of the top 1/8 on average.
    assert found.layers[0].recall["linear"][found.kept_fractions.index(1 / 8)] > 0.3
    assert found.overlap_of(5, 5) == 1
    assert 0 < found.overlap_of(5, 6) < 1
    assert found.overlap_of(6, 8) == 0  # of different grids


def test_layers_are_chosen_by_damage_and_distilled(model):
    pictures = list(make_images(model, batch=3))
    plan = sparsight.optimize(
        model, pictures, sparsight.SVE(keep=1 / 4, score="linear", min_tokens=0),
        distillation=sparsight.Distillation(steps=3), max_error=10.0, reuse_overlap=0.0,
    )  # fmt: skip
    assert plan.sve.layers == SAM2_GLOBAL
    assert plan.sve.groups == ((5, 6),)
    assert [row.layer for row in plan.layers] == list(SAM2_GLOBAL)
    trained = {k for k in plan.weights if k.startswith("model.")}
    assert trained
    assert all(any(f"blocks.{n}." in k for n in SAM2_GLOBAL) for k in trained)


def test_distillation_brings_the_student_closer(model):
    from sparsight.stages import distil as distilling

    pictures = list(make_images(model, batch=2))
    plan = make_plan(model, "exact", keep=1 / 8)
    settings = sparsight.Distillation(steps=20, learning_rate=3e-4)
    distilled, losses = distilling.distil(model, plan, pictures, settings)
    images = torch.stack(pictures)
    dense, errors = features(model, images), []
    for candidate in (plan, distilled):
        errors.append((features(sparsight.apply(model, candidate), images) - dense).norm())
        sparsight.restore(model)
    assert losses[-1] < losses[0]
    assert errors[1] < 0.95 * errors[0]


def test_crossover_counts_the_tokens_of_the_sparse_layers(monkeypatch):
    from sparsight.stages import timing
    from sparsight.stages.crossover import crossover

    model = make_timm_sam2()
    fast = {"dense": [1.0] * 3, "sparse": [0.5] * 3}
    monkeypatch.setattr(timing, "interleave", lambda *_: fast)
    tokens, rows = crossover(model, make_plan(model, layers=(5, 6)))
    assert tokens == (8 * 32 // 16) ** 2
    assert [row["tokens"] for row in rows] == [16**2, 24**2]


def test_flops_fall_by_what_the_formula_says(model):
    from sparsight.stages import timing
    from sparsight.stages.measure import fused

    image = make_images(model, batch=1, grid=(8, 8))
    plan = make_plan(model, "linear")
    sparse = sparsight.apply(copy.deepcopy(model), plan)
    with fused(model, sparse):
        counts = [timing.gflops(lambda m=m: features(m, image)) for m in (model, sparse)]
    saved = 0
    for layer, n, dim in ((5, 256, 64), (6, 256, 64), (8, 64, 128)):
        nq, nk = attentions_of(sparse)[layer].counts(n)
        # QK^T and AV of the pairs that are not computed; those of nq and nk are computed twice.
        saved += 4 * dim * ((n - nq) * (n - nk) - nq * nk)
    # The counter leaves out matrix-vector products, so the projectors do not show.
    assert (counts[0] - counts[1]) * 1e9 == pytest.approx(saved, rel=1e-6)


def test_the_dense_baseline_wastes_nothing():
    from sparsight.stages import timing
    from sparsight.stages.measure import fused

    model = make_hf_sam2()
    images = make_images(model)
    wanted = features(model, images)
    wasteful = timing.gflops(lambda: features(model, images))
    with fused(model):
        got = features(model, images)
        lean = timing.gflops(lambda: features(model, images))
    assert lean < wasteful
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()  # the same sums, grouped otherwise
    assert all("forward" not in module.__dict__ for module in model.modules())


def make_whole_sam2():
    from transformers import Sam2Config, Sam2Model

    vision = sam2_config()
    vision.backbone_feature_sizes = [[32, 32], [16, 16], [8, 8]]
    small = {"hidden_size": 24, "num_attention_heads": 2}
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 24, "image_size": 128, "patch_size": 16},
        mask_decoder_config=small | {"mlp_dim": 32, "iou_head_hidden_dim": 16},
    )
    torch.manual_seed(0)
    return shaken(Sam2Model(config))


@pytest.mark.parametrize("part", ["", "vision_encoder", "vision_encoder.backbone"])
def test_the_whole_sam2_runs_with_prompts_and_a_sparse_encoder(part):
    model = make_whole_sam2()
    inputs = {
        "pixel_values": torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(4)),
        "input_points": torch.rand(2, 1, 5, 2, generator=torch.Generator().manual_seed(5)) * 128,
        "input_labels": torch.ones(2, 1, 5, dtype=torch.long),
    }
    with torch.no_grad():
        dense = model(**inputs).pred_masks
        sparsight.apply(model.get_submodule(part), make_plan(model.get_submodule(part)))
        sparse = model(**inputs).pred_masks
        sparsight.restore(model.get_submodule(part))
        assert sparse.shape == dense.shape
        assert sparse.isfinite().all()
        assert (sparse - dense).abs().max() > 1e-4 * dense.abs().max()
        assert torch.equal(model(**inputs).pred_masks, dense)


def test_transformers_records_hidden_states_in_the_original_order():
    model = make_hf_sam2()
    images, plan, wanted = make_images(model), make_plan(model, "exact", GROUPS["grouped"]), []
    reference(model, plan, images, wanted)
    sparsight.apply(model, plan)
    with torch.no_grad():
        shown = model(images, output_hidden_states=True).hidden_states
    assert len(shown) == 1 + 9  # what the first block reads, and what each returns
    for layer, tokens in zip(SAM2_GLOBAL, wanted, strict=True):
        assert (shown[layer + 1] - tokens).abs().max() <= 1e-5 * tokens.abs().max()


def test_attention_maps_are_refused_where_a_layer_is_sparse():
    model = make_hf_sam2()
    images = make_images(model)
    sparsight.apply(model, make_plan(model))
    with pytest.raises(sparsight.SparsightError, match="layer 5 is sparse and has no attention map"):
        model(images, output_attentions=True)


def test_gradients_are_the_same_with_checkpointing():
    model = WINDOWED["timm_sam2"]()  # transformers offers none for SAM 2
    images, gradients = make_images(model), []
    sparsight.apply(model, make_plan(model, groups=GROUPS["grouped"])).train()
    family, key = family_in(model), "attn.qkv.weight"
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad()
        family.features(model, images).square().mean().backward()
        gradients.append(family.blocks(model)[5].get_parameter(key).grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_both_libraries_are_the_same_encoder():
    """timm's weights in transformers' model: what the benchmark compares is one model in two forms."""
    theirs, ours = make_timm_sam2(init_values=None), make_hf_sam2().backbone
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "fc1": "proj_in", "fc2": "proj_out"}
    names |= {"patch_embed.proj": "patch_embed.projection"}
    weights = {k: v for k, v in theirs.state_dict().items() if not k.startswith("head.")}
    for one, other in names.items():
        weights = {k.replace(one, other): v for k, v in weights.items()}
    ours.load_state_dict(weights)
    images = make_images(theirs)
    wanted = features(theirs, images)
    # LayerNorm's epsilon is 1e-5 in timm and 1e-6 in transformers; the rest is the same arithmetic.
    assert (features(ours, images) - wanted).abs().max() < 1e-3 * wanted.abs().max()


def test_the_command_line_loads_sam2s_encoder_by_its_name_in_timm():
    loaded = load_model("timm:sam2_hiera_tiny", (64, 96))
    assert family_of(loaded.model).global_layers(loaded.model) == (5, 7, 9)
    assert features(loaded.model, torch.randn(1, 3, 64, 96)).shape == (1, 2 * 3, 768)


def test_encoders_known_not_to_fit_are_refused_with_the_reason():
    import transformers

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64}
    host = transformers.SamVisionModel._from_config(
        transformers.SamVisionConfig(**small), attn_implementation="eager"
    )
    with pytest.raises(
        sparsight.UnsupportedModelError, match=r"SamVisionEncoder .* attn_implementation='sdpa'"
    ):
        sparsight.apply(host, sparsight.SVE(layers="all"))
