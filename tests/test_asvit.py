"""AS-ViT: thresholds in place of counts, calibrated to a budget of operations."""

import pytest
import torch
from conftest import make_images, make_model, plan_of
from test_apply import assert_sparse_equals, features, mapped_by_hand, tensors_of
from test_reduced import pick
from torch.nn.functional import layer_norm
from torch.nn.functional import scaled_dot_product_attention as sdpa

import sparsight
from sparsight.attach import applied
from sparsight.families import family_of
from sparsight.methods.asvit.budget import Cost, Threshold, cost_of, share_of
from sparsight.stages.bench import bench_of
from sparsight.stages.complete import complete
from sparsight.stages.observe import stages_left

GRID = (20, 17)  # 340 patches: some leave by a threshold, not all of those left


def by_threshold(model, values=(1.0, 2.0), **settings):
    """A plan with these thresholds; even attention to all is 1, to half of them, the others gone, 2."""
    config = sparsight.ASViT(**{"stages": (1, 3), "min_tokens": 0} | settings)
    plan = plan_of(model, config)
    names = [f"asvit.{stage}.threshold" for stage in config.stages]
    return plan.with_(weights=dict(zip(names, map(torch.tensor, values), strict=True)))


def by_hand(model, plan, images):
    """The final features of a batch, with tokens that leave in Python lists of places."""
    family, config = family_of(model), plan.one(sparsight.ASViT)
    prefix, parts, blocks = family.prefix_tokens(model), family.parts, family.blocks(model)
    here, scores, left = [], {}, [[] for _ in images]

    def hook_for(layer):
        def hook(block, args, kwargs, output):
            x, new = args[0], args[0].clone()
            n, own = x.shape[1], tensors_of(plan, "asvit", layer)
            if not here:
                here.extend(list(range(n)) for _ in images)
            if layer in config.stages:
                above = [
                    [row for row in rows[prefix:] if scores[image][row] * n >= own["threshold"]]
                    for image, rows in enumerate(here)
                ]
                count = max(1, round(sum(map(len, above)) / len(above)))  # common to the batch
                for image, rows in enumerate(here):
                    best = sorted(rows[prefix:], key=lambda row: -scores[image][row])[:count]
                    here[image] = sorted([*range(prefix), *best])
                    gone = sorted(set(rows) - set(here[image]))
                    left[image].append((gone, x[image, gone], own))
            for image, rows in enumerate(here):
                tables = {k: kwargs[k] for k in family.per_token if kwargs.get(k) is not None}
                h = parts.norm(block, x[image : image + 1, rows])
                attn = parts.attention(block)
                q, k, v = parts.qkv(attn, h, **pick(tables, rows, prefix))
                out = sdpa(q, k, v).transpose(1, 2)
                y = parts.residual(block, x[image : image + 1, rows], parts.merge(attn, out, h))
                new[image, rows] = parts.mlp(block, y)[0]
                cls = (q[:, :, :1] @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(3)[0, :, 0]
                size = out[0].norm(dim=2)
                score = (size / size.sum(1, keepdim=True) * cls.T).sum(1).tolist()
                before = scores.get(image, {}) if config.scores == "accumulated" else {}
                if layer >= config.first:
                    scores[image] = {
                        row: value + before.get(row, 0) for row, value in zip(rows, score, strict=True)
                    }
                for gone, last, fitted in left[image]:
                    if layer == len(blocks) - 1 and "map.3" in fitted:
                        read = layer_norm(last, last.shape[1:])
                        new[image, gone] = last + mapped_by_hand(read, fitted["map.3"])
            return new

        return hook

    handles = [b.register_forward_hook(hook_for(n), with_kwargs=True) for n, b in enumerate(blocks)]
    result = features(model, images)
    for handle in handles:
        handle.remove()
    return result


@pytest.mark.parametrize("scores", ["last", "accumulated"])
@pytest.mark.parametrize("name", ["dinov2_reg", "dinov3", "hf_deit"])
def test_equals_the_reference_by_hand(name, scores):
    model = make_model(name)
    images = make_images(model, grid=GRID)
    completion = {"last": "map", "accumulated": "last"}[scores]
    stages = (1, 3) if scores == "last" else (2, 3)
    values = (1.0, 2.0) if scores == "last" else (0.9, 1.9)
    plan = by_threshold(model, values, stages=stages, scores=scores, completion=completion)
    dense, wanted = features(model, images), by_hand(model, plan, images)
    sparsight.apply(model, plan)
    assert_sparse_equals(wanted, features(model, images), dense)
    counts = [(stages_left(model, images) == n).sum(1).tolist() for n in (1, 2)]
    assert all(first == second > 0 for first, second in counts)  # in both stages, as many in both


def test_one_picture_keeps_what_its_scores_say_and_a_batch_as_many_in_the_mean():
    model = make_model("dinov2")
    images = make_images(model, grid=GRID)
    images[1] *= 3  # another picture: other counts
    plan = by_threshold(model)
    alone = [by_hand(model, plan, image[None]) for image in images]
    sparsight.apply(model, plan)
    counts = []
    for image, wanted in zip(images, alone, strict=True):
        got = features(model, image[None])
        assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        counts.append(int((stages_left(model, image[None]) != 1).sum()))
    assert counts[0] != counts[1]
    together = (stages_left(model, images) != 1).sum(1).tolist()
    assert together == [1 + round(sum(counts) / 2 - 1)] * 2


def test_thresholds_serve_any_number_of_tokens_and_extremes():
    model = make_model("augreg")
    shares = []
    for grid in (GRID, (40, 34)):
        images = make_images(model, grid=grid, batch=1)
        sparsight.apply(model, by_threshold(model))
        shares.append((stages_left(model, images) == 1).float().mean().item())
        sparsight.restore(model)
    # In units of 1/n: without, four times the tokens would have a quarter of the score, and all leave.
    assert abs(shares[0] - shares[1]) < 0.1
    images, dense = make_images(model), features(model, make_images(model))
    got = features(sparsight.apply(model, by_threshold(model, (0.0, 0.0))), images)
    assert (got - dense).abs().max() <= 1e-5 * dense.abs().max()
    sparsight.restore(model)
    sparsight.apply(model, by_threshold(model, (1e9, 1e9)))
    assert (stages_left(model, images) == 0).sum(1).tolist() == [1 + 1] * 2  # one patch is always left
    sparsight.restore(model)
    assert torch.equal(features(model, images), dense)


def spent(model, images, budget_of):
    """The operations of all blocks over the dense model's, in the mean over pictures, one at a time."""
    cost, depth, stages, found = *budget_of, []
    for image in images:
        left = stages_left(model, image[None])[0]
        n = len(left)
        there = [
            n
            - sum(int((left == place).sum()) for place, stage in enumerate(stages, 1) if stage <= layer)
            for layer in range(depth)
        ]
        found.append(sum(map(cost, there)) / (depth * cost(n)))
    return sum(found) / len(found)


@pytest.mark.parametrize(("budget", "completion"), [(0.8, "last"), (0.65, "map")])
def test_calibration_meets_the_budget_over_the_pictures(budget, completion):
    model = make_model("dinov2", depth=6)
    images = make_images(model, batch=4, grid=GRID)
    images[1::2] *= 3
    config = sparsight.ASViT(budget=budget, completion=completion, min_tokens=0)
    plan = complete(bench_of(model, list(images)), sparsight.Plan(methods=(config,)))
    (resolved,) = plan.methods
    assert resolved.stages == (2, 4, 5)
    assert {name for name in plan.weights if "threshold" in name} == {
        f"asvit.{stage}.threshold" for stage in resolved.stages
    }
    cost = cost_of(model.blocks[0], family_of(model))
    assert cost.weights == 4 * 48 * 48 + 8 * 48 * 48  # 4 d^2 + 2 r d^2, r = 4
    sparsight.apply(model, plan)
    # Counts are whole: a token more or less in each of three stages is a hundredth.
    assert spent(model, images, (cost, 6, resolved.stages)) == pytest.approx(budget, abs=0.01)
    counts = {int((stages_left(model, image[None]) == 0).sum()) for image in images}
    assert len(counts) > 1


def test_a_run_is_saved_and_loaded(tmp_path):
    model = make_model("augreg")
    images = make_images(model, batch=3, grid=GRID)
    plan = sparsight.optimize(model, list(images), sparsight.ASViT(min_tokens=0), out=tmp_path)
    assert "recipe" in plan.model_dump()
    wanted = features(sparsight.apply(model, plan), images[:1])
    sparsight.restore(model)
    assert sparsight.load(tmp_path) == plan
    assert torch.equal(features(sparsight.apply(model, tmp_path), images[:1]), wanted)


def test_shares_and_thresholds_by_hand():
    cost = Cost(weights=100, width=0)  # linear: shares are shares of operations
    rho = share_of(cost, 4, (2,), 0.75, 101, 1)
    assert 1 + rho * 100 == pytest.approx(101 * 0.5, rel=1e-5)
    with pytest.raises(sparsight.PlanError, match=r"the layers before 2 take 0.50 of all"):
        share_of(cost, 4, (2,), 0.5, 101, 1)
    one, other = torch.arange(10.0), torch.arange(10.0) * 2
    asked = Threshold(one, 0, cost, 500.0)
    asked += Threshold(other, 0, cost, 500.0)
    assert asked.solved("it").item() == 7.0  # three of one, 7, 8, 9, and six of the other, from 8 on


@pytest.mark.parametrize(
    ("settings", "error", "reason"),
    [
        ({"stages": (0, 2)}, sparsight.ArgumentError, "no token can leave before layer 0"),
        ({"stages": ()}, sparsight.ArgumentError, "stages is empty"),
        ({"budget": 1.0}, sparsight.ArgumentError, "less than 1"),
        ({"stages": (4,)}, sparsight.PlanError, "names layer 4, but this model has layers 0 to 3"),
        ({"budget": 0.4}, sparsight.PlanError, r"a budget of 0.4 cannot be met, .* before 2, where"),
        ({}, sparsight.PlanError, r"no tensor 'asvit.2.threshold': .* run sparsight.optimize"),
    ],
)
def test_what_does_not_fit_is_refused(settings, error, reason):
    model = make_model("augreg")
    with pytest.raises(error, match=reason):
        sparsight.apply(model, sparsight.ASViT(**settings))
    assert applied(model) is None
    with pytest.raises(sparsight.PlanError, match="this model has none"):
        sparsight.apply(make_model("siglip"), sparsight.ASViT())
    with pytest.raises(sparsight.PlanError, match="ASViT does not export as it is: the kept count"):
        sparsight.export(model, by_threshold(model), "x.pt2", "pt2", sizes=((96, 96), (96, 96)))
