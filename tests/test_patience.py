"""A distillation that ends by itself: when, with which weights, resumed, and what is told of it."""

import copy
import itertools

import pytest
import torch
from conftest import make_images, make_model, run_features
from test_apply import features, make_plan

import sparsight
from sparsight.attach import as_plan
from sparsight.errors import ImagesError
from sparsight.families import family_of
from sparsight.ops.fidelity import relative_error, relative_square, salience
from sparsight.report.charts import charts_of
from sparsight.report.data import read_run
from sparsight.run import save_plan
from sparsight.stages import distil as distilling
from sparsight.stages import patience as waiting
from sparsight.stages.bench import bench_of
from sparsight.stages.complete import complete
from sparsight.stages.heldout import held_out
from sparsight.stages.observe import outputs_of
from sparsight.stages.patience import CHECK_EVERY, Patience

RATE = 3e-4


def pictures_for(model, count=8):
    return list(make_images(model, batch=count))


def watched(errors, patience=3, minutes=None):
    """Patience over one weight that is the number of the step, with these errors in turn."""
    weight = torch.nn.Parameter(torch.zeros(1))
    found = Patience(iter(errors).__next__, {"w": weight}, patience, minutes)
    for step in itertools.count():
        weight.data.fill_(step)
        if found.over(step):
            return found, step, weight.item()
    raise AssertionError


@pytest.mark.parametrize(
    ("errors", "checks", "lowest"),
    [
        ([4, 3, 2, 2, 2, 2], 5, 2),  # no longer falls
        ([4, 3, 3.5, 2.9, 3.1, 3.2, 3.3], 6, 3),  # rises once, which is forgiven
        ([4, 5, 6, 7], 3, 0),  # never better than it was: the weights are those it began with
        ([4, 3.99, 3.98, 3.97], 3, 3),  # falls by less than counts; the lowest is kept all the same
    ],
)
def test_it_ends_when_the_error_no_longer_falls_with_the_best_weights(errors, checks, lowest):
    found, step, weight = watched(errors)
    assert step == checks * CHECK_EVERY
    assert weight == lowest * CHECK_EVERY
    assert found.errors == [(n * CHECK_EVERY, e) for n, e in enumerate(errors[: checks + 1])]
    assert "has not fallen in 3 checks" in found.ended
    assert found.told()["lowest_at_step"] == lowest * CHECK_EVERY


def test_every_check_without_a_gain_halves_the_rate():
    assert watched([4, 3, 3, 3, 3])[0].rate == 1 / 8
    assert watched([4, 3, 3, 2, 2, 2, 2])[0].rate == 1 / 16


def test_it_ends_when_the_time_is_over_even_when_resumed(monkeypatch):
    clock = itertools.count(step=10)  # seconds between two looks
    monkeypatch.setattr(waiting.time, "monotonic", lambda: float(next(clock)))
    found, step, _ = watched(itertools.count(100, -1), minutes=10)
    assert found.ended == "the 10 minutes were over"
    assert 55 <= step <= 60
    assert found.errors[-1][0] == step  # the last weights count too
    later = Patience(lambda: 0.0, found.trained, 3, 20)
    later.resume(found.state() | {"ended": ""}, found.best)
    assert later.before_s >= 600
    assert not later.over(step)


def test_pictures_held_out_are_spread_and_never_all():
    def places(count, **settings):
        return held_out(count, sparsight.Distillation(**settings))

    assert places(16) == ([4, 12], [n for n in range(16) if n not in (4, 12)])
    for count in (2, 3, 7, 100, 1000):
        held, rest = places(count)
        assert sorted(held + rest) == list(range(count))
        assert 1 <= len(held) <= 16
        assert rest
    assert len(places(2, held_out=0.99)[1]) == 1
    assert places(5, steps=3) == ([], [0, 1, 2, 3, 4])


def test_it_brings_the_student_closer_on_pictures_it_never_saw_and_tells(tmp_path):
    model = make_model("augreg")
    plan = make_plan(model, "exact", layers=(1, 2), keep=1 / 8)
    # What is learnt of some is true of the others: all are one picture, under a little noise.
    pictures = [0.2 * noise + pictures_for(model, 1)[0] for noise in make_images(model, 8, seed=5)]
    settings = sparsight.Distillation(learning_rate=RATE, held_out=0.25, patience=1)
    distilled, losses = distilling.distil(model, plan, pictures, settings)
    told = distilled.recipe["distillation"]["ending"]
    held = torch.stack([pictures[n] for n in held_out(8, settings)[0]])
    assert told["pictures"] == len(held) == 2
    dense, prefix = features(model, held), family_of(model).prefix_tokens(model)
    sparse = features(sparsight.apply(copy.deepcopy(model), distilled), held)
    error = relative_error(sparse, dense, salience(dense, prefix)).mean().item()
    assert error == pytest.approx(told["lowest"], rel=1e-4)  # the weights kept are those of the lowest
    assert told["lowest"] < 0.95 * told["errors"][0][1]
    assert len(losses) == told["errors"][-1][0]
    save_plan(distilled, tmp_path)
    (chart,) = (c for c in charts_of(read_run(tmp_path)) if c.name == "held-out")
    assert chart.series[0].y == [error for _, error in told["errors"]]
    assert told["ended"] in chart.see


def test_interrupted_it_goes_on_to_the_same_end(tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "CHECK_EVERY", 4)
    model = make_model("augreg")
    pictures, plan = pictures_for(model, 4), make_plan(model, "exact", layers=(1, 2), keep=1 / 8)
    settings = sparsight.Distillation(learning_rate=3e-2, patience=2)  # so high that it ends soon
    straight, losses = distilling.distil(model, plan, pictures, settings)
    usual, calls = Patience.rate_at, []

    def interrupted(self, step):
        calls.append(step)
        if step == 6:
            raise KeyboardInterrupt
        return usual(self, step)

    monkeypatch.setattr(Patience, "rate_at", interrupted)
    with pytest.raises(KeyboardInterrupt):
        distilling.distil(model, plan, pictures, settings, tmp_path)
    monkeypatch.setattr(Patience, "rate_at", usual)
    for _ in range(2):  # and once more, when it had ended and its plan was not yet saved
        resumed, again = distilling.distil(model, plan, pictures, settings, tmp_path)
        assert again == losses
        assert resumed.recipe == straight.recipe
        assert all(torch.equal(v, straight.weights[k]) for k, v in resumed.weights.items())


def test_it_starts_from_the_completed_model_and_looks_at_the_final_features():
    model = make_model("dinov3")
    methods = [
        sparsight.SVE(layers=(0, 1), keep=1 / 4, completion="map"),
        sparsight.EarlyExit(after=(1,), keep=0.5),
    ]
    images = list(make_images(model, 3, (20, 15)))
    plan = complete(bench_of(model, images), as_plan(methods))
    settings = sparsight.Distillation(steps=1, learning_rate=RATE)
    _, (loss,) = distilling.distil(model, plan, [images[0]], settings)
    # The same by hand, of the model as it would run: maps in place.
    sparse, prefix = sparsight.apply(copy.deepcopy(model), plan.at_any_size()), 5
    layers, seen = (0, 1), []
    for one in (model, sparse):
        with outputs_of(one, layers) as found:
            final = run_features(one, images[0][None])
        seen.append([*(found[n] for n in layers), final])
    weights = salience(seen[0][-1], prefix)
    terms = [relative_square(got, goal, weights) for goal, got in zip(*seen, strict=True)]
    assert loss == pytest.approx(sum(terms).item(), rel=1e-4)
    layerwise = settings.model_copy(update={"final": 0.0})
    _, (without,) = distilling.distil(model, plan, [images[0]], layerwise)
    assert without == pytest.approx(sum(terms[:2]).item(), rel=1e-4)  # Eq. 14 alone


def test_what_does_not_fit_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="leave out steps, or minutes"):
        sparsight.Distillation(steps=3, minutes=1)
    model = make_model("augreg")
    with pytest.raises(ImagesError, match="there is one alone: give more, or say how many steps"):
        sparsight.optimize(
            model, pictures_for(model, 1), sparsight.SVE(), tmp_path / "run", sparsight.Distillation()
        )
    assert not (tmp_path / "run").exists()
