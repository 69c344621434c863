"""Calibration, selection, projectors, distillation, measuring: each against what it should find."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    HF_MODELS,
    attentions_of,
    blocks_of,
    make_images,
    make_model,
    make_timm_sam2,
    run_features,
)
from test_apply import features, make_plan

import sparsight
from sparsight.attach import applied, as_plan
from sparsight.completions.linear import RIDGE
from sparsight.errors import NotFiniteError
from sparsight.families import family_of
from sparsight.methods import tensor_name
from sparsight.methods.spot.config import network_names
from sparsight.modes import evaluating
from sparsight.ops import statistics
from sparsight.ops.dynamics import sampled_statistics
from sparsight.scores.relevance import described, relevance
from sparsight.stages import distil as distilling
from sparsight.stages import select, timing
from sparsight.stages import train as training
from sparsight.stages.calibrate import analyze
from sparsight.stages.crossover import crossover
from sparsight.stages.observe import outputs_of, watch
from sparsight.stages.predict import fit_one, fit_projectors
from sparsight.stages.relevance import fit_relevance

NAMES = ("augreg", "dinov2_reg", "siglip", "dinov3", *HF_MODELS)


def pictures_for(model, count=3):
    return list(make_images(model, batch=count))


def maps_of(model, picture):
    """m of every layer from the full attention maps."""
    maps = []

    def see(block, args, kwargs):
        family = family_of(model)
        tables = {k: kwargs[k] for k in family.per_token if kwargs.get(k) is not None}
        attn, h = family.parts.attention(block), family.parts.norm(block, args[0])
        q, k, _ = family.parts.qkv(attn, h, **tables)
        maps.append((q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1).mean((1, 2)))

    handles = [b.register_forward_pre_hook(see, with_kwargs=True) for b in blocks_of(model)]
    features(model, picture[None])
    for handle in handles:
        handle.remove()
    return [m[:, family_of(model).prefix_tokens(model) :] for m in maps]


@pytest.mark.parametrize("name", NAMES)
def test_analysis_equals_the_definitions(name):
    model = make_model(name)
    pictures = pictures_for(model)
    found = analyze(model, pictures)
    assert found.images == 3
    assert found.resolution == tuple(pictures[0].shape[1:])
    maps = [maps_of(model, picture) for picture in pictures]
    for layer in range(4):
        mine = [m[layer] for m in maps]
        indicator = torch.cat([statistics.sparsity_indicator(m) for m in mine]).mean()
        assert found.layers[layer].indicator == pytest.approx(indicator.item(), abs=1e-6)
        share = torch.cat([statistics.top_share(m, 1 / 8) for m in mine]).mean()
        assert found.layers[layer].top_share == pytest.approx(share.item(), abs=1e-5)
        assert all(0 <= r <= 1 for c in found.layers[layer].recall.values() for r in c)
        assert all(list(c) == sorted(c) for c in found.layers[layer].recall.values())
    both = torch.stack([statistics.overlap(torch.cat(m), 1 / 8) for m in maps]).mean(0)
    assert torch.allclose(torch.tensor(found.overlap), both, atol=1e-6)


def test_analysis_leaves_no_trace_and_sees_through_a_plan():
    model = make_model("dinov2_reg").train()
    before = [len(m._forward_pre_hooks) for m in model.modules()]
    pictures = pictures_for(model)
    dense = analyze(model, pictures)
    assert [len(m._forward_pre_hooks) for m in model.modules()] == before
    assert model.training
    sparsight.apply(model.eval(), make_plan(model, "exact", ((0, 1, 2),)))
    sparse = analyze(model, pictures)
    alone = [found.layers[0].model_copy(update={"linear_rest": None}) for found in (dense, sparse)]
    assert alone[0] == alone[1]  # nothing before it has changed, but the rest after it has
    assert sparse.layers[0].linear_rest != dense.layers[0].linear_rest
    assert sparse.layers[3] != dense.layers[3]


@pytest.mark.parametrize("name", ["dinov3", "hf_vit"])
def test_how_linear_the_rest_is_equals_least_squares(name):
    model = make_model(name)
    pictures, last = pictures_for(model), len(blocks_of(model)) - 1
    found = analyze(model, pictures)
    prefix, seen = family_of(model).prefix_tokens(model), {}
    for layer, block in enumerate(blocks_of(model)):
        block.register_forward_hook(
            lambda _, args, out, layer=layer: seen.setdefault(layer, []).append(
                (out if isinstance(out, torch.Tensor) else out[0])[0, prefix:].double().numpy()
            )
        )
    for picture in pictures:
        features(model, picture[None])
    end = np.concatenate(seen[last])
    for layer in range(last):
        x = np.concatenate(seen[layer])
        normal = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        a = np.concatenate([normal, np.ones((len(x), 1))], 1)
        # Ridge regression as least squares with one more row for each column.
        ridge = np.sqrt(RIDGE * np.square(a).sum(0).mean()) * np.eye(a.shape[1])
        rows, goal = (
            np.concatenate([a, ridge]),
            np.concatenate([end - x, np.zeros((len(ridge), x.shape[1]))]),
        )
        table = np.linalg.lstsq(rows, goal, rcond=None)[0]
        error = np.linalg.norm(end - x - a @ table) / np.linalg.norm(end)
        assert found.layers[layer].linear_rest == pytest.approx(error, rel=1e-4)
    assert found.layers[last].linear_rest is None


def test_how_linear_the_rest_is_stays_unknown_where_it_cannot_be_told():
    model = make_model("augreg")
    few = analyze(model, pictures_for(model, 1))  # 63 tokens for maps of 49 rows
    assert [layer.linear_rest for layer in few.layers] == [None] * 4
    windowed = make_timm_sam2()
    found = analyze(windowed, pictures_for(windowed, 1))
    assert [layer.linear_rest for layer in found.layers] == [None] * len(found.layers)


def test_nan_in_the_features_is_told_with_its_layer():
    model = make_model("augreg")
    model.blocks[1].mlp.fc2.bias.data[3] = torch.nan
    with pytest.raises(NotFiniteError, match="layer 2"):
        analyze(model, pictures_for(model))


def test_selection_by_indicator_and_groups():
    model = make_model("augreg")
    found = analyze(model, pictures_for(model))
    rigged = found.model_copy(
        update={
            "layers": tuple(
                layer.model_copy(update={"indicator": value})
                for layer, value in zip(found.layers, (0.1, 0.9, 0.5, 0.6), strict=True)
            )
        }
    )
    assert select.by_indicator(rigged, 0.5) == (1, 3)
    overlap = torch.eye(8)
    for a, b, value in ((2, 3, 0.8), (2, 4, 0.7), (3, 4, 0.1), (2, 5, 0.2), (6, 7, 0.9)):
        overlap[a, b] = overlap[b, a] = value
    groups = select.choose_groups((2, 3, 4, 5, 6, 7), lambda a, b: overlap[a, b], 0.6)
    assert groups == ((2, 3, 4), (6, 7))  # compared with the run's first layer, not the one before
    assert select.choose_groups((2, 4, 6), lambda a, b: 1.0, 0.6) == ()


def test_damage_ranks_layers_and_stays_within_the_limit():
    model = make_model("augreg")
    # A block that writes next to nothing cannot do damage, and one that writes much does most.
    for number, factor in enumerate((1.0, 1e-3, 4.0, 1.0)):
        model.blocks[number].attn.proj.weight.data *= factor
        model.blocks[number].attn.proj.bias.data *= factor
    pictures = pictures_for(model)
    base = sparsight.SVE(keep=1 / 8, score="exact", min_tokens=0)
    trials = [base.model_copy(update={"layers": (n,)}) for n in range(4)]
    damage = select.Damage(model, pictures, select.IMAGES)
    damages = dict(enumerate(select.damage_of(damage, trials)))
    assert applied(model) is None
    assert min(range(4), key=damages.__getitem__) == 1
    assert max(range(4), key=damages.__getitem__) == 2
    limit = max(damages.values()) * 0.99
    layers, error = select.by_damage(damage, base, damages, limit)
    assert 1 in layers
    assert 2 not in layers
    assert error <= limit
    assert select.by_damage(damage, base, damages, 0.0) == ((), 0.0)


def test_a_projector_finds_what_is_there_to_find():
    torch.manual_seed(0)
    true, pairs = torch.randn(16), []
    for _ in range(4):
        h = torch.randn(205, 16)
        pairs.append((h, torch.softmax(h @ true, 0)))
    w = fit_one(pairs, prefix=5)
    # m is a softmax of a linear function of h, so the convex fit must find that function; the small
    # ridge shortens it a little.
    assert torch.nn.functional.cosine_similarity(w, true, dim=0) > 0.999


@pytest.mark.parametrize("name", NAMES)
def test_projectors_beat_chance_on_models(name):
    model = make_model(name)
    pictures = pictures_for(model, 4)
    weights = fit_projectors(model, pictures, (0, 2))
    assert set(weights) == {tensor_name("sve", 0, "projector"), tensor_name("sve", 2, "projector")}
    found = analyze(model, pictures, projectors={0: weights[tensor_name("sve", 0, "projector")]})
    # A blind choice of 1/8 of the tokens finds 1/8 of the top 1/8 on average.
    assert found.layers[0].recall["linear"][found.kept_fractions.index(1 / 8)] > 0.3
    assert "linear" not in found.layers[1].recall


def settings_for_test(**changes):
    return sparsight.Distillation(steps=30, learning_rate=3e-4, **changes)


@pytest.mark.parametrize("name", ["augreg", "hf_vit"])
@pytest.mark.parametrize("train", ["blocks", "all"])
def test_distillation_brings_the_student_closer(name, train):
    model = make_model(name)
    pictures = pictures_for(model, 4)
    plan = make_plan(model, "exact", layers=(1, 2), keep=1 / 8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    distilled, losses = distilling.distil(model, plan, pictures, settings_for_test(train=train))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert applied(model) is None
    assert len(losses) == 30
    names = {id(p): f"model.{key}" for key, p in model.named_parameters()}
    for layer, block in enumerate(blocks_of(model)):
        changed = {names[id(p)] in distilled.weights for p in block.parameters()}
        assert changed == {train == "all" or layer in (1, 2)}
    images = torch.stack(pictures)
    dense = features(model, images)
    errors = []
    for candidate in (plan, distilled):
        errors.append((features(sparsight.apply(model, candidate), images) - dense).norm())
        sparsight.restore(model)
    assert errors[1] < 0.9 * errors[0]


def test_an_interrupted_distillation_resumes_to_the_same_weights(tmp_path, monkeypatch):
    model = make_model("dinov2_reg")
    pictures = pictures_for(model, 3)
    plan = make_plan(model, "sampled", ((0, 1, 2),))
    settings = settings_for_test(scores=("sampled", "exact"))
    straight, losses = distilling.distil(model, plan, pictures, settings)

    calls, usual = [], training.schedule

    def interrupt_at_17(step, steps):
        calls.append(step)
        if step == 17:
            raise KeyboardInterrupt
        return usual(step, steps)

    monkeypatch.setattr(training, "schedule", interrupt_at_17)
    with pytest.raises(KeyboardInterrupt):
        distilling.distil(model, plan, pictures, settings, tmp_path)
    monkeypatch.undo()
    assert calls[-1] == 17
    resumed, again = distilling.distil(model, plan, pictures, settings, tmp_path)
    assert again == losses
    assert resumed.weights.keys() == straight.weights.keys()
    assert all(torch.equal(v, straight.weights[k]) for k, v in resumed.weights.items())


def test_two_processes_do_what_one_does_with_twice_the_batch():
    """As `accelerate launch --cpu` starts it; gradients and losses are means over processes."""
    script = Path(__file__).with_name("two_processes.py")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d",
        "--rdzv_endpoint=localhost:0", script,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=240,
        env=os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    together = json.loads(done.stdout.splitlines()[-1])
    model = make_model("augreg")
    plan, pictures = make_plan(model, "exact"), pictures_for(model, 4)
    settings = sparsight.Distillation(steps=6, learning_rate=3e-4, batch=2)
    alone = distilling.distil(model, plan, pictures, settings)[1]
    # Six steps of the same mean gradient, summed in another order.
    assert together == pytest.approx(alone, rel=1e-3)
    assert alone[-1] < alone[0]


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    model = make_model("augreg")
    plan, pictures = make_plan(model), pictures_for(model)
    distilling.distil(model, plan, pictures, sparsight.Distillation(steps=2), tmp_path)
    with pytest.raises(sparsight.PlanError, match="with other settings"):
        distilling.distil(model, plan, pictures, sparsight.Distillation(steps=3), tmp_path)
    (tmp_path / distilling.CHECKPOINT_FILE).write_bytes(b"1234567890")
    with pytest.raises(sparsight.PlanError, match="is damaged"):
        distilling.distil(model, plan, pictures, sparsight.Distillation(steps=2), tmp_path)


def test_a_diverging_distillation_says_so():
    model = make_model("augreg")
    settings = sparsight.Distillation(steps=30, learning_rate=1e20)
    with pytest.raises(NotFiniteError, match="lower learning_rate"):
        distilling.distil(model, make_plan(model), pictures_for(model), settings)


def test_distillation_in_bfloat16_stays_close_to_float32():
    model = make_model("augreg")
    pictures, plan = pictures_for(model), make_plan(model, "exact")
    full = distilling.distil(model, plan, pictures, settings_for_test())[1]
    half = distilling.distil(model, plan, pictures, settings_for_test(precision="bfloat16"))[1]
    # The same descent with 8 bits of precision in the products, which show most in the final features,
    # behind all of them: so small a loss (3e-4) is rounded by a quarter.
    assert half[-1] == pytest.approx(full[-1], rel=0.4)
    assert half != full


@pytest.mark.parametrize("name", ["augreg", "hf_siglip2"])
def test_optimize_leaves_the_model_alone_and_saves_what_it_returns(tmp_path, name):
    model = make_model(name)
    before = copy.deepcopy(model.state_dict())
    pictures = pictures_for(model, 4)
    method = sparsight.SVE(score="linear", keep=1 / 2, min_tokens=0)
    distillation = sparsight.Distillation(steps=3)
    plan = sparsight.optimize(model, pictures, method, tmp_path, distillation, max_error=0.5)
    assert applied(model) is None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert sparsight.load(tmp_path) == plan
    assert (tmp_path / "analysis.json").exists()
    assert not (tmp_path / distilling.CHECKPOINT_FILE).exists()
    assert len(plan.layers) == 4
    assert {row.layer for row in plan.layers if row.sparse} == set(plan.sve.layers)
    assert any("joint relative error" in reason for reason in plan.reasons)
    sparsight.apply(model, tmp_path)


def test_distillation_is_sparse_even_below_the_crossover():
    model = make_model("augreg")
    plan = make_plan(model, "exact", min_tokens=10_000)
    losses = distilling.distil(model, plan, pictures_for(model), sparsight.Distillation(steps=1))[1]
    assert losses[0] > 1e-5


def test_optimize_by_indicator_and_by_name():
    model = make_model("augreg")
    model.blocks[1].attn.qkv.weight.data *= 20  # sharp attention: a few tokens get it all
    pictures = pictures_for(model)
    plan = sparsight.optimize(model, pictures, select_by="indicator", indicator_threshold=0.05)
    found = analyze(model, pictures)
    assert 1 in plan.sve.layers
    assert plan.sve.layers == select.by_indicator(found, 0.05)
    with pytest.raises(sparsight.SparsightError, match="no layer's sparsity indicator"):
        sparsight.optimize(model, pictures, select_by="indicator", indicator_threshold=1.0)
    with pytest.raises(sparsight.SparsightError, match="every layer alone moves"):
        sparsight.optimize(model, pictures, max_error=1e-9)
    named = sparsight.optimize(model, pictures, sparsight.SVE(layers=(1, 3)))
    assert named.sve.layers == (1, 3)
    with pytest.raises(sparsight.PlanError, match="names layer 7"):
        sparsight.optimize(model, pictures, sparsight.SVE(layers=(7,)))


@pytest.mark.parametrize("name", ["augreg", "hf_dinov2_reg"])
def test_measure_reports_both_arms(name):
    model = make_model(name)
    pictures = pictures_for(model)
    plan = make_plan(model, keep=1 / 4)
    result = sparsight.measure(
        model, plan, pictures, resolutions=[(144, 112), (96, 96)], batches=[1, 2], repeats=2
    )
    assert applied(model) is None
    assert len(result["cases"]) == 8
    for dense, sparse in zip(result["cases"][::2], result["cases"][1::2], strict=True):
        assert (dense["arm"], sparse["arm"]) == ("dense", "sparse")
        assert dense["speedup"] == 1
        assert sparse["speedup"] == pytest.approx(dense["latency_ms"] / sparse["latency_ms"])
        assert dense["peak_memory_mb"] > 0
    moved = result["fidelity"]
    sparse = sparsight.apply(copy.deepcopy(model), plan)
    errors = [
        ((a - b).norm() / b.norm()).item()
        for p in pictures
        for a, b in [(features(sparse, p[None]), features(model, p[None]))]
    ]
    assert moved["relative_error"] == pytest.approx(sum(errors) / 3, rel=1e-4)
    assert moved["relative_error_worst"] == pytest.approx(max(errors), rel=1e-4)
    assert moved["relative_error_worst_image"] == errors.index(max(errors))
    with pytest.raises(sparsight.ImagesError, match="not a multiple"):
        sparsight.measure(model, plan, resolutions=[(100, 96)])


@pytest.mark.parametrize("name", ["augreg", "hf_vit"])
def test_flops_of_sparse_attention_follow_the_formula(name):
    model = make_model(name)
    plan = make_plan(model, "linear", keep=1 / 4)
    image = make_images(model, batch=1, grid=(20, 20))
    dense = timing.gflops(lambda: run_features(model, image))
    sparsight.apply(model, plan)
    sparse = timing.gflops(lambda: run_features(model, image))
    n, dim, kept = 401, 48, 128
    assert attentions_of(model)[0].counts(n) == (kept, kept)
    # Per layer QK^T and AV of all pairs, less those of all queries with the kept keys and of the kept
    # queries with all keys.
    saved = 4 * dim * (n * n - 2 * n * kept)
    # The counter leaves out matrix-vector products, so the projector (2 n dim) does not show.
    assert (dense - sparse) * 1e9 == pytest.approx(3 * saved, rel=1e-6)


def test_the_dense_baseline_is_fused():
    from sparsight.stages.measure import fused

    model = make_model("augreg")
    model.blocks[1].attn.fused_attn = False
    with fused(model):
        assert all(b.attn.fused_attn for b in model.blocks)
    assert [b.attn.fused_attn for b in model.blocks] == [True, False, True, True]


def test_timing_does_not_keep_memory_from_the_rest_of_the_program():
    def held_mb():
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6

    before = held_mb()
    timing.interleave({"arm": lambda: torch.ones(50_000_000)}, 1, torch.device("cpu"))
    # While timing, the 200 MB stay with the process; afterwards they must not.
    assert held_mb() - before < 50


def test_crossover_is_where_sparse_stays_faster(monkeypatch):
    model = make_model("augreg")
    # Times made up per size: sparse pays at 16 x 16 once, then from 24 x 24 on.
    fast = {8: 2.0, 12: 2.0, 16: 0.5, 20: 2.0, 24: 0.5, 28: 0.5}

    def made_up(arms, repeats, device, what):
        return {"dense": [1.0] * 3, "sparse": [fast[int(what.split("x")[-1])]] * 3}

    monkeypatch.setattr(timing, "interleave", made_up)
    tokens, rows = crossover(model, make_plan(model))
    assert tokens == 24 * 24 + 1
    assert [row["tokens"] for row in rows] == [65, 145, 257, 401, 577, 785]


def test_crossover_of_a_model_with_one_picture_size_is_unknown():
    model = make_model("augreg", dynamic_img_size=False)
    assert crossover(model, make_plan(model)) == (None, [])


def test_peak_memory_counts_what_is_held_at_once():
    def arm():
        first = torch.zeros(1_000_000)  # 4 MB
        second = first + 1
        del first
        return second * second.sum()

    assert timing.peak_memory_mb(arm, torch.device("cpu")) == pytest.approx(8, abs=0.1)


@pytest.mark.parametrize("name", ["augreg", "hf_vit"])
def test_relevance_that_learns_the_maps_error_finds_the_tokens_a_map_cannot_finish(name):
    model = make_model(name)
    prefix, stage = family_of(model).prefix_tokens(model), 2
    pictures = list(make_images(model, batch=12, grid=(16, 15)))
    start = as_plan(sparsight.SPOT(stages=(stage,), hidden=16, sample=16))
    how = sparsight.RelevanceTraining(learns="map-error", steps=60)
    plan, losses = fit_relevance(model, start, pictures[:8], how)
    assert losses[-1] < losses[0]
    assert fit_relevance(model, start, pictures[:8], how)[0] == plan
    assert plan.recipe["relevance"]["learns"] == "map-error"

    def tokens_of(picture):
        notes = []
        seeing = watch(
            model, (0, 1), lambda view: notes.append(sampled_statistics(view.q, view.k, prefix, 16))
        )
        with evaluating(model), seeing, outputs_of(model, (stage - 1, 3)) as outputs:
            run_features(model, picture[None])
        x, end = (outputs[layer][:, prefix:] for layer in (stage - 1, 3))
        return x[0], end[0], described(x, [note.flatten(2) for note in notes])

    seen = [tokens_of(picture) for picture in pictures]
    x, end = (torch.cat([rows[part] for rows in seen[:8]]).double() for part in (0, 1))

    def extended(tokens):
        normal = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:])
        return torch.cat([normal, torch.ones(len(tokens), 1)], 1)

    table = torch.linalg.lstsq(extended(x), end - x).solution.float()
    weights = [plan.weights[f"spot.{stage}.{part}"] for part in network_names()]
    found = []
    for x, end, read in seen[8:]:
        error = (end - x - extended(x) @ table).square().sum(1)
        worst = error.topk(len(error) // 4).indices
        chosen = relevance(read, *weights)[0].topk(len(error) // 4).indices
        found.append(len(set(worst.tolist()) & set(chosen.tolist())) / len(worst))
    # Chance finds a quarter of the worst quarter, in pictures it has not learned from too.
    assert sum(found) / len(found) > 0.4


def test_relevance_that_learns_the_maps_error_takes_no_other_loss():
    model = make_model("augreg")
    how = sparsight.RelevanceTraining(learns="map-error", steps=1)
    with pytest.raises(sparsight.PlanError, match="has a loss of its own"):
        fit_relevance(
            model, as_plan(sparsight.SPOT()), pictures_for(model), how, task_loss=lambda got, truth: 0
        )
