"""A bound on the predicted error: how many tokens or windows each picture keeps, in MLPs and windows."""

import copy
import math

import pytest
import torch
from conftest import (
    WINDOWED,
    blocks_of,
    make_images,
    make_model,
    make_timm_swin,
    plan_of,
    run_features,
)

import sparsight
from sparsight.attach import as_plan
from sparsight.files import write_json
from sparsight.inplace import is_changed
from sparsight.methods.bounds import STEPS, TOKENS_A_STEP, needed
from sparsight.methods.mlp_routing.mlp import RoutedMLP
from sparsight.methods.sparsevit.block import CARRY, WindowBlock
from sparsight.report import write_report
from sparsight.report.charts import charts_of
from sparsight.report.data import read_run
from sparsight.run import save_plan
from sparsight.stages.bench import bench_of
from sparsight.stages.complete import complete
from sparsight.stages.look import look, save_looks
from sparsight.stages.measure import measure
from sparsight.stages.observe import stages_left
from sparsight.tables import show_measurement

ROUTED = sparsight.MLPRouting(layers=(1,), keep=0.5, score="map-error", bound=1.0, min_tokens=0)
DROPPED = sparsight.SparseViT(sparsity=0.5, score="map-error", completion="map", bound=1.0)


def test_as_many_stay_as_each_picture_needs_in_steps():
    errors = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.1]])
    assert needed(errors, 0.45, 1) == [1, 4]  # none and three, and one more
    assert needed(errors, 0.65, 1) == [1, 2]
    assert needed(errors, 0.65, 3) == [3, 3]
    assert needed(errors, 0.65, 3, more=2) == [3, 6]
    assert needed(errors, 10.0, 2) == [2, 2]  # nobody reaches it: one step
    assert needed(errors, 0.0, 3) == [4, 4]  # no more than there are


def seen_by_mlp(model, images):
    """Features, and how many tokens went through the MLP of layer 1, and the score of all."""
    counts, scores, mlp = [], [], blocks_of(model)[1].mlp
    assert isinstance(mlp, RoutedMLP)
    handles = [
        mlp.fc1.register_forward_pre_hook(lambda module, args: counts.append(args[0].shape[1])),
        mlp.register_forward_pre_hook(lambda module, args: scores.append(module.scored(args[0]))),
    ]
    found = run_features(model, images)
    for handle in handles:
        handle.remove()
    return found, counts[0], scores[0]


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_an_mlp_takes_the_tokens_above_the_bound(share):
    model = make_model("augreg")
    images, plan = make_images(model, grid=(23, 21)), plan_of(model, ROUTED)
    *_, score = seen_by_mlp(sparsight.apply(model, plan), images)
    sparsight.restore(model)
    bound = math.exp(score[0, 1:].quantile(1 - share).item() / 2)
    dense = run_features(model, images)
    for batch in (images[:1], images[1:]):
        bounded = plan.changed(plan.methods[0].model_copy(update={"bound": bound}))
        got, count, score = seen_by_mlp(sparsight.apply(model, bounded), batch)
        wanted = (score[0, 1:] >= 2 * math.log(bound)).sum().item()
        assert count == min(484, math.ceil((wanted + 2) / TOKENS_A_STEP) * TOKENS_A_STEP)
        assert count < 484
        sparsight.restore(model)
        # The same as if this count had been asked for.
        fixed = plan.changed(
            plan.methods[0].model_copy(update={"bound": None, "keep": (count - 1) / 483})
        )
        assert torch.equal(got, run_features(sparsight.apply(model, fixed), batch))
        sparsight.restore(model)
        assert min((got - one).abs().max() for one in dense) > 0


def strengths_of(model, images):
    """Features of a picture, and by layer the strengths of all windows and how many were kept."""
    found, handles = {}, []

    def see(block, args, output):
        carry = getattr(output, CARRY)
        layout = block._sparsight.shared[1]
        ((_, kept),) = block.counts(layout, carry)
        found[block._sparsight.layer] = (carry.strengths[layout.shift], kept)

    for block in blocks_of(model):
        if isinstance(block, WindowBlock):
            handles.append(block.register_forward_hook(see))
    features = run_features(model, images)
    for handle in handles:
        handle.remove()
    return features, found


@pytest.mark.parametrize("make", [make_timm_swin, WINDOWED["timm_sam2"]])
def test_windows_above_the_bound_are_kept(make):
    model = make()
    grid = (23, 19) if make is make_timm_swin else (9, 7)
    images, plan = make_images(model, grid=grid), plan_of(model, DROPPED)
    _, found = strengths_of(sparsight.apply(model, plan), images[:1])
    sparsight.restore(model)
    first = min(found)
    bound = found[first][0].quantile(0.7).item()
    bounded = plan.changed(plan.methods[0].model_copy(update={"bound": bound}))
    got, found = strengths_of(sparsight.apply(model, bounded), images[:1])
    for strengths, kept in found.values():
        count = strengths.shape[1]
        wanted = (strengths >= bound).sum().item()
        step = math.ceil(count / STEPS)
        assert kept == min(count, math.ceil((wanted + 1) / step) * step)
    assert 0 < found[first][1] < found[first][0].shape[1]
    assert got.isfinite().all()


LEAVING = sparsight.EarlyExit(
    after=(0, 1), keep=(0.7, 0.3), taps=(2,), score="map-error", bound="calibrated", min_tokens=0
)
LATE = ROUTED.model_copy(update={"layers": (2, 3), "bound": "calibrated"})
DROPPED_TOO = DROPPED.model_copy(update={"bound": "calibrated"})
UNLIKE = {  # which model, on which grid, under which methods
    "an exit": ("augreg", (30, 25), (LEAVING,)),
    "an exit, with rotary tables": ("dinov3", (30, 25), (LEAVING,)),
    "MLPs": ("hf_dinov2_reg", (23, 18), (LATE,)),
    "an exit and MLPs": ("siglip", (30, 25), (LEAVING, LATE)),
    "windows that do not divide the map": (WINDOWED["timm_sam2"], (9, 7), (DROPPED_TOO,)),
    "shifted windows": (make_timm_swin, (23, 19), (DROPPED_TOO,)),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_pictures_of_a_batch_keep_each_its_own_count_and_equal_themselves_alone(case):
    name, grid, methods = UNLIKE[case]
    model = make_model(name) if isinstance(name, str) else name()
    images = make_images(model, 4, grid) * torch.tensor([0.05, 3.0, 0.4, 1.2]).view(-1, 1, 1, 1)
    plan = complete(bench_of(model, list(images)), as_plan(methods)).at_any_size()
    sparsight.apply(model, plan)
    sites = [part._sparsight for part in model.modules() if is_changed(part)]
    alone, kept = [], []
    for picture in images:
        alone.append(run_features(model, picture[None]))
        kept.append([site.noted.kept[0] for site in sites])
    together = run_features(model, images)
    assert [list(row) for row in zip(*(site.noted.kept for site in sites), strict=True)] == kept
    assert all(len(set(counts)) > 1 for counts in zip(*kept, strict=True))  # pictures do differ
    # Products of other shapes round differently; another kept set would show as 1e-3.
    assert (together - torch.cat(alone)).abs().max() <= 1e-5 * together.abs().max()


def test_a_calibrated_bound_keeps_on_the_calibration_pictures_what_was_asked_for():
    model = make_timm_swin(depths=(2, 2))
    images = make_images(model, 4, (23, 19), 5) * torch.tensor([0.2, 0.6, 1.5, 4.0]).view(-1, 1, 1, 1)
    settings = DROPPED.model_copy(update={"bound": "calibrated"})
    plan = sparsight.optimize(model, list(images), settings)
    assert {f"sparsevit.{n}.bound" for n in range(4)} <= plan.weights.keys()
    sparsight.apply(model, plan)
    kept = [strengths_of(model, picture[None])[1] for picture in images]
    for layer in (0, 1):
        above = [
            (found[layer][0] >= plan.weights[f"sparsevit.{layer}.bound"]).float().mean()
            for found in kept
        ]
        # Half of all windows of the four pictures together; one window is 1/96 of them.
        assert sum(above) / 4 == pytest.approx(0.5, abs=0.03)
    counts = [found[0][1] for found in kept]
    assert len(set(counts)) > 1  # as the picture needs
    sparsight.restore(model)
    routed = ROUTED.model_copy(update={"bound": "calibrated", "layers": (1,)})
    plain = make_model("augreg")
    pictures = make_images(plain, 3, (23, 21), 5)
    plan = sparsight.optimize(plain, list(pictures), routed, max_images=3)
    sparsight.apply(plain, plan.at_any_size())
    above = [
        (seen_by_mlp(plain, p[None])[2][:, 1:] >= plan.weights["mlp-routing.1.bound"]).float().mean()
        for p in pictures
    ]
    assert sum(above) / 3 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("kind", [sparsight.MLPRouting, sparsight.SparseViT])
def test_a_bound_needs_a_map_and_its_predicted_error(kind):
    with pytest.raises(ValueError, match="set score='map-error', completion='map'"):
        kind(bound=0.2)
    with pytest.raises(ValueError, match="greater than 0"):
        kind(bound=0.0, score="map-error", completion="map")
    bounded = kind(bound=0.25, score="map-error", completion="map")
    assert "error below 0.25" in bounded.label()
    assert "bound" in bounded.model_copy(update={"bound": "calibrated"}).label()


# What is told of it


@pytest.fixture(scope="module")
def told():
    """A model, a plan of an exit with a calibrated bound, and pictures that differ in what they need."""
    model = make_model("augreg")
    images = make_images(model, 5, (24, 20)) * torch.tensor([0.02, 0.1, 0.4, 1.2, 4.0]).view(-1, 1, 1, 1)
    settings = sparsight.EarlyExit(after=(0,), keep=0.7, score="map-error", bound="calibrated")
    plan = complete(bench_of(model, list(images)), as_plan(settings)).at_any_size()
    return model, plan, list(images)


def test_a_measurement_tells_what_each_picture_kept_and_what_that_costs(told, tmp_path):
    model, plan, images = told
    result = measure(model, plan, images, [tuple(images[0].shape[1:])], batches=(1, 2), repeats=1)
    moved = result["fidelity"]
    shares = [row["kept"]["early-exit"] for row in moved["by_image"]]
    sparse = sparsight.apply(copy.deepcopy(model), plan)
    staying = [(stages_left(sparse, x[None]) == 0).float().mean().item() for x in images]
    assert shares == pytest.approx(staying)
    assert len(set(shares)) > 1
    middle = sorted(shares)[2]
    assert moved["kept"] == {
        "early-exit": {"min": min(shares), "median": pytest.approx(middle), "max": max(shares)}
    }
    # Not noise, but the pictures were timed: that of a middling share, and both ends.
    assert result["cases"][1]["kept"]["early-exit"] == pytest.approx(middle)
    ends = [row["kept"]["early-exit"] for row in result["by_count"]]
    assert ends == [min(shares), max(shares)]
    assert not result["notes"]

    looks = list(look(model, sparse, images, [0, 4]))
    assert [one.kept["early-exit"] for one in looks] == [shares[0], shares[4]]
    save_plan(plan, tmp_path)
    write_json(tmp_path / "measure.json", result)
    save_looks(looks, tmp_path)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert f"{100 * min(shares):.0f} % to {100 * max(shares):.0f} % over 5 pictures" in page
    assert f"early-exit keeps {100 * shares[4]:.0f} % of it" in page
    (chart,) = (c for c in charts_of(read_run(tmp_path)) if c.name == "kept")
    assert chart.series[0].x == pytest.approx([100 * share for share in shares])
    show_measurement(result)


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        (1e-30, "leaves nothing out of any of 5 pictures"),
        (1e30, "leaves out all that it may of each of 5"),
    ],
)
def test_a_bound_under_which_nothing_or_everything_leaves_is_said(told, bound, said, tmp_path):
    model, plan, images = told
    bound = plan.methods[0].model_copy(update={"bound": (bound,)})
    result = measure(model, plan.changed(bound), images, [tuple(images[0].shape[1:])], repeats=1)
    assert [said in note for note in result["notes"]] == [True]
    write_json(tmp_path / "measure.json", result)
    assert said in write_report(tmp_path).read_text(encoding="utf-8")


def test_without_pictures_it_is_said_that_noise_was_timed(told):
    model, plan, _ = told
    (note,) = measure(model, plan, None, [(224, 224)], repeats=1)["notes"]
    assert "noise was timed" in note
