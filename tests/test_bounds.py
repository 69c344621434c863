"""A bound on the predicted error: how many tokens or windows each picture keeps, in MLPs and windows."""

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
from sparsight.methods.bounds import STEPS, TOKENS_A_STEP, needed
from sparsight.methods.mlp_routing.mlp import RoutedMLP
from sparsight.methods.sparsevit.block import CARRY, WindowBlock

ROUTED = sparsight.MLPRouting(layers=(1,), keep=0.5, score="map-error", bound=1.0, min_tokens=0)
DROPPED = sparsight.SparseViT(sparsity=0.5, score="map-error", completion="map", bound=1.0)


def test_as_many_stay_as_the_neediest_picture_needs_in_steps():
    errors = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.1]])
    assert needed(errors, 0.45, 1) == 4  # three of the second picture, and one more
    assert needed(errors, 0.65, 1) == 2
    assert needed(errors, 0.65, 3) == 3
    assert needed(errors, 0.65, 3, more=2) == 6
    assert needed(errors, 10.0, 2) == 2  # nobody reaches it: one step
    assert needed(errors, 0.0, 3) == 4  # no more than there are


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
    for batch in (images[:1], images):
        bounded = plan.changed(plan.methods[0].model_copy(update={"bound": bound}))
        got, count, score = seen_by_mlp(sparsight.apply(model, bounded), batch)
        wanted = max((row[1:] >= 2 * math.log(bound)).sum().item() for row in score)
        assert count == min(484, math.ceil((wanted + 2) / TOKENS_A_STEP) * TOKENS_A_STEP)
        assert count < 484
        sparsight.restore(model)
        # The same as if this count had been asked for.
        fixed = plan.changed(
            plan.methods[0].model_copy(update={"bound": None, "keep": (count - 1) / 483})
        )
        assert torch.equal(got, run_features(sparsight.apply(model, fixed), batch))
        sparsight.restore(model)
        assert not torch.equal(got, dense[: len(batch)])


def strengths_of(model, images):
    """Features, and by layer the strengths of all windows and how many were kept."""
    found, handles = {}, []

    def see(block, args, output):
        carry = getattr(output, CARRY)
        layout = block._sparsight.shared[1]
        found[block._sparsight.layer] = (carry.strengths[layout.shift], block.kept(layout, carry))

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
    _, found = strengths_of(sparsight.apply(model, plan), images)
    sparsight.restore(model)
    first = min(found)
    bound = found[first][0].quantile(0.7).item()
    bounded = plan.changed(plan.methods[0].model_copy(update={"bound": bound}))
    got, found = strengths_of(sparsight.apply(model, bounded), images)
    for strengths, kept in found.values():
        count = strengths.shape[1]
        wanted = (strengths >= bound).sum(1).max().item()
        step = math.ceil(count / STEPS)
        assert kept == min(count, math.ceil((wanted + 1) / step) * step)
    assert 0 < found[first][1] < found[first][0].shape[1]
    alone = [strengths_of(model, images[n : n + 1])[1][first][1] for n in range(2)]
    assert found[first][1] == max(alone)
    assert got.isfinite().all()


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
