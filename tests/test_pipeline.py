"""One pipeline for every method: `optimize` by name, and interrupted anywhere it goes on to the same."""

import copy
import functools
import json
import shutil

import pytest
import torch
from conftest import SWINS, blocks_of, make_images, make_model, plan_of, run_features

import sparsight
from sparsight.attach import applied, as_plan
from sparsight.errors import ImagesError
from sparsight.methods import METHODS, method_named
from sparsight.run import weights_file
from sparsight.stages import complete as completing
from sparsight.stages import optimize as optimizing
from sparsight.stages import timing
from sparsight.stages import train as training
from sparsight.stages.optimize import CHECKPOINTS, UNFINISHED
from sparsight.stages.steps import STEPS, steps_of

SHORT = {"steps": 4, "learning_rate": 1e-4}
# name -> method, and what else `optimize` is given: every method, and every training.
CASES = {
    "sve": ("sve", {}),
    "sve, linear": (sparsight.SVE(score="linear", min_tokens=0), {}),
    "sve, distilled": (
        sparsight.SVE(layers=(1, 2), score="linear", completion="map"),
        {"distillation": sparsight.Distillation(**SHORT)},
    ),
    "mlp-routing": ("mlp-routing", {}),
    "early-exit": ("early-exit", {}),
    "tome": ("tome", {}),
    "density-peaks": ("density-peaks", {}),
    "mutual-pairs": ("mutual-pairs", {}),
    "bypass": ("bypass", {}),
    "local-attention": (sparsight.LocalAttention(size=4, completion="map"), {}),
    "cls-topk": ("cls-topk", {}),
    "asvit": ("asvit", {}),
    "spot": ("spot", {"relevance": sparsight.RelevanceTraining(**SHORT)}),
    "spot by error": (
        "spot", {"relevance": sparsight.RelevanceTraining(learns="map-error", **SHORT)}
    ),
    "sparsevit": ("sparsevit", {}),
    "sparsevit, adapted": ("sparsevit", {"adaptation": sparsight.Adaptation(tenths=4, **SHORT)}),
    "sve + early-exit": (
        [sparsight.SVE(completion="map"), sparsight.EarlyExit(after=(2,), keep=0.4)], {}
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_crossover(monkeypatch):
    """Found in no time and always the same; test_stages measures it."""
    row = {"tokens": 65, "dense_ms": 2.0, "sparse_ms": 1.0}
    monkeypatch.setattr("sparsight.stages.steps.crossover", lambda model, plan: (65, [row]))


def scene(case, count=6):
    """A model and its pictures."""
    if case.startswith("sparsevit"):
        model = SWINS["timm_swin"]()
        return model, list(torch.randn(count, 3, 92, 76, generator=torch.Generator().manual_seed(1)))
    model = make_model("augreg")
    return model, list(make_images(model, batch=count, grid=(12, 11)))


def optimized(case, out=None, pictures=None, **changes):
    model, usual = scene(case)
    method, more = CASES[case]
    return sparsight.optimize(model, pictures or usual, method, out, **more | changes)


@functools.cache
def whole(case):
    """The plan of a run that nothing interrupts."""
    return optimized(case)


def test_every_method_that_needs_no_other_is_here():
    names = {name for name, method in METHODS.items() if method.changes != "pictures"}
    by_name = {method for method, _ in CASES.values() if isinstance(method, str)}
    assert names == by_name | {"local-attention"}  # whose windows are larger than these pictures


@pytest.mark.parametrize("case", CASES)
def test_optimize_prepares_a_plan_that_is_cheaper_and_leaves_the_model_alone(case, tmp_path):
    model, pictures = scene(case)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    method, more = CASES[case]
    plan = sparsight.optimize(model, pictures, method, tmp_path, **more)
    assert applied(model) is None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert sparsight.load(tmp_path) == plan == whole(case)
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & {UNFINISHED, *CHECKPOINTS}
    assert plan.resolution == tuple(pictures[0].shape[1:])
    assert (plan.recipe["images"], plan.recipe["calibration_images"], plan.recipe["skipped"]) == (
        6,
        6,
        0,
    )
    if isinstance(method, str):
        assert plan.methods[0].model_dump().get("completion", "map") == "map"
    trained = any(name.startswith("model.") for name in plan.weights)
    assert trained == (case in ("sve, distilled", "sparsevit, adapted"))
    image = pictures[0][None]
    counts = [timing.gflops(lambda m=m: run_features(m, image)) for m in (model,)]
    sparse = sparsight.apply(copy.deepcopy(model), plan.at_any_size())
    counts.append(timing.gflops(lambda: run_features(sparse, image)))
    assert run_features(sparse, image).isfinite().all()
    assert counts[1] < counts[0]


def test_names_that_no_pipeline_can_be_run_for_are_refused():
    model, pictures = scene("sve")
    with pytest.raises(sparsight.PlanError, match="no method is called 'evit'; there are "):
        sparsight.optimize(model, pictures, "evit")
    with pytest.raises(sparsight.PlanError, match="use a method for global attention"):
        sparsight.optimize(model, pictures, "sparsevit")


def fail(bench, plan):
    raise AssertionError("a step that was done is done again")


def interrupt(*given, **more):
    raise KeyboardInterrupt


def steps_for(case):
    method = CASES[case][0]
    return steps_of(as_plan(method_named(method).config() if isinstance(method, str) else method))


@pytest.mark.parametrize(("case", "step"), [(case, step) for case in CASES for step in steps_for(case)])
def test_interrupted_at_a_step_it_goes_on_to_the_same_plan(case, step, tmp_path, monkeypatch):
    steps = steps_for(case)
    done = steps[: steps.index(step)]
    with monkeypatch.context() as patch:
        patch.setitem(STEPS, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            optimized(case, tmp_path)
    assert (tmp_path / UNFINISHED).exists() == bool(done)
    assert not (tmp_path / "plan.json").exists()
    for name in done:
        monkeypatch.setitem(STEPS, name, fail)
    plan = optimized(case, tmp_path)
    assert plan == whole(case)
    assert sparsight.load(tmp_path) == plan
    assert not (tmp_path / UNFINISHED).exists()


@pytest.mark.parametrize("case", ["sve, distilled", "spot", "sparsevit, adapted"])
def test_interrupted_in_a_training_it_goes_on_to_the_same_weights(case, tmp_path, monkeypatch):
    usual, seen = training.schedule, []

    def stopped(step, steps):
        seen.append(step)
        return interrupt() if step == 2 and seen.count(2) == 1 else usual(step, steps)

    monkeypatch.setattr(training, "schedule", stopped)
    with pytest.raises(KeyboardInterrupt):
        optimized(case, tmp_path)
    assert any((tmp_path / name).exists() for name in CHECKPOINTS[1:])
    assert optimized(case, tmp_path) == whole(case)
    assert seen == [0, 1, 2, 2, 3]  # no step of the training is done twice
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert len(losses) == SHORT["steps"]


@pytest.mark.parametrize(
    "case", ["sve", "mlp-routing", "spot", "sparsevit, adapted", "sve + early-exit"]
)
def test_interrupted_in_completion_it_goes_on_to_the_same_maps(case, tmp_path, monkeypatch):
    usual, places = completing._Saved.add, []

    def stopped(saved, place, new):
        found = usual(saved, place, new)
        if found:
            places.append(place.layer)
            if len(places) == 2:
                raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(completing._Saved, "add", stopped)
        with pytest.raises(KeyboardInterrupt):
            optimized(case, tmp_path)
    assert (tmp_path / completing.COMPLETION_FILE).exists()
    again = []

    def counted(saved, place, new):
        again.append(place.layer)
        return usual(saved, place, new)

    monkeypatch.setattr(completing._Saved, "add", counted)
    assert optimized(case, tmp_path) == whole(case)
    assert not set(places) & set(again)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_interrupted_around_a_save_it_goes_on_to_the_same_plan(tmp_path, monkeypatch, call, when):
    usual, calls = optimizing.save_plan, []

    def stopped(plan, folder):
        calls.append(folder)
        if len(calls) == call and when == "before":
            raise KeyboardInterrupt
        found = usual(plan, folder)
        if len(calls) == call:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(optimizing, "save_plan", stopped)
        with pytest.raises(KeyboardInterrupt):
            optimized("early-exit", tmp_path)
    assert optimized("early-exit", tmp_path) == whole("early-exit")


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """A folder with a run of early exit that was interrupted before its last step."""
    with monkeypatch.context() as patch:
        patch.setitem(STEPS, "crossover", interrupt)
        with pytest.raises(KeyboardInterrupt):
            optimized("early-exit", tmp_path)
    return tmp_path


OTHERS = {
    "settings": lambda model, images, out: sparsight.optimize(
        model, images, sparsight.EarlyExit(keep=0.3), out
    ),
    "method": lambda model, images, out: sparsight.optimize(model, images, "mlp-routing", out),
    "wishes": lambda model, images, out: sparsight.optimize(
        model, images, "early-exit", out, max_error=0.3
    ),
    "count": lambda model, images, out: sparsight.optimize(
        model, images, "early-exit", out, max_images=4
    ),
    "pictures": lambda model, images, out: sparsight.optimize(model, images[:5], "early-exit", out),
    "size": lambda model, images, out: sparsight.optimize(
        model, [image[:, :96] for image in images], "early-exit", out
    ),
    "model": lambda model, images, out: sparsight.optimize(
        make_model("augreg", seed=1), images, "early-exit", out
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_an_unfinished_run_of_something_else_is_refused_and_kept(unfinished, other):
    before = {path: path.read_bytes() for path in unfinished.rglob("*") if path.is_file()}
    with pytest.raises(sparsight.PlanError, match="holds an unfinished run with other") as caught:
        OTHERS[other](*scene("early-exit"), unfinished)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in unfinished.rglob("*") if path.is_file()} == before
    assert optimized("early-exit", unfinished) == whole("early-exit")


def test_an_unfinished_run_that_is_removed_is_no_obstacle(unfinished):
    shutil.rmtree(unfinished / UNFINISHED)
    other = sparsight.optimize(*scene("early-exit"), sparsight.EarlyExit(keep=0.3), unfinished)
    assert sparsight.load(unfinished) == other
    assert {path.name for path in unfinished.iterdir() if "weights" not in path.name} == {
        "analysis.json", "plan.json",
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["", "{", "[]", "plan"])
def test_an_unfinished_run_that_is_damaged_is_one_sentence(unfinished, damage):
    file = unfinished / UNFINISHED / "plan.json"
    file.write_text(
        sparsight.Plan(methods=(sparsight.ToMe(),)).to_json() if damage == "plan" else damage
    )
    with pytest.raises(sparsight.PlanError, match=r"is damaged .*: remove it to start again") as caught:
        optimized("early-exit", unfinished)
    assert "\n" not in str(caught.value)


def test_a_changed_state_of_an_unfinished_run_is_refused(unfinished):
    file = unfinished / UNFINISHED / "plan.json"
    content = json.loads(file.read_text())
    content["data"]["recipe"][UNFINISHED]["found"]["analysis"]["tokens"] += 1
    text = json.dumps(content)
    next(file.parent.glob("weights-*")).rename(file.parent / weights_file(text))
    file.write_text(text)
    with pytest.raises(sparsight.PlanError, match="what it found was changed"):
        optimized("early-exit", unfinished)


def test_a_refusal_in_a_step_leaves_no_run_that_stands_in_the_way(tmp_path):
    """Too few tokens for a map are known in the third step; the next call has more."""
    model, images = scene("early-exit")
    few = sparsight.EarlyExit(keep=0.99)
    with pytest.raises(sparsight.PlanError, match="cannot be fitted"):
        sparsight.optimize(model, images[:1], few, tmp_path)
    assert not list(tmp_path.iterdir())
    assert optimized("early-exit", tmp_path) == whole("early-exit")


class Counted:
    """Pictures of which some cannot be read; says how often each was asked for."""

    def __init__(self, pictures, bad=()):
        self.pictures, self.bad, self.reads = pictures, bad, []

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        self.reads.append(index)
        if index in self.bad:
            raise ImagesError(f"cannot read {index}.png")
        return self.pictures[index]


@pytest.mark.parametrize("case", CASES)
def test_a_picture_is_read_once_and_one_that_cannot_be_is_counted(case):
    images = Counted(scene(case, 8)[1], bad=(0, 5))
    plan = optimized(case, pictures=images)
    assert sorted(images.reads) == list(range(8))
    found = plan.recipe
    assert (found["images"], found["calibration_images"], found["skipped"]) == (8, 6, 2)


def test_pictures_that_cannot_be_read_are_counted_after_an_interrupt_too(tmp_path, monkeypatch):
    images = scene("mlp-routing", 8)[1]
    straight = optimized("mlp-routing", pictures=Counted(images, bad=(0, 5)))
    with monkeypatch.context() as patch:
        patch.setitem(STEPS, "crossover", interrupt)
        with pytest.raises(KeyboardInterrupt):
            optimized("mlp-routing", tmp_path, Counted(images, bad=(0, 5)))
    assert optimized("mlp-routing", tmp_path, Counted(images, bad=(0, 5))) == straight


@pytest.mark.parametrize(
    ("method", "given", "says"),
    [
        (
            "early-exit",
            {"distillation": sparsight.Distillation()},
            "distillation is of SVE, and the plan",
        ),
        ("sve", {"adaptation": sparsight.Adaptation()}, "adaptation is of SparseViT, and the plan"),
        (
            "sve",
            {"relevance": sparsight.RelevanceTraining()},
            "relevance is of SPOT, and the plan has sve",
        ),
    ],
)
def test_a_training_that_no_method_asks_for_is_refused(method, given, says):
    with pytest.raises(sparsight.PlanError, match=says):
        sparsight.optimize(*scene("sve"), method, **given)


def test_layers_that_are_chosen_are_those_where_all_tokens_are_still_there():
    plan = whole("sve + early-exit")
    assert set(plan.sve.layers) <= {0, 1, 2}
    model, pictures = scene("sve")
    with pytest.raises(sparsight.PlanError, match="SPOT leaves no layer to SVE: name fewer"):
        sparsight.optimize(model, pictures, [sparsight.SVE(), sparsight.SPOT(stages=(1,))])


def test_distillation_goes_on_from_the_completed_model():
    plan = whole("sve, distilled")
    model, pictures = scene("sve")
    settings = CASES["sve, distilled"][0]
    free = sparsight.optimize(model, pictures, settings)
    maps = {name: value for name, value in free.weights.items() if name.endswith(".map")}
    assert set(maps) == {"sve.1.map", "sve.2.map"}
    assert all(torch.equal(plan.weights[name], value) for name, value in maps.items())
    # The projectors are those of the adapted weights.
    assert not torch.equal(plan.weights["sve.2.projector"], free.weights["sve.2.projector"])
    assert any("maps stand in the place" in reason for reason in plan.reasons)
    assert any("distilled for 4 steps" in reason for reason in plan.reasons)


def test_optimize_goes_on_from_a_plan():
    model, pictures = scene("spot")
    given = plan_of(model, sparsight.SPOT(stages=(1, 3), hidden=8, completion="map"))
    plan = sparsight.optimize(model, pictures, given)
    networks = [name for name in given.weights if ".map." not in name]
    assert all(torch.equal(plan.weights[name], given.weights[name]) for name in networks)
    assert not torch.equal(plan.weights["spot.1.map.3"], given.weights["spot.1.map.3"])
    assert "relevance" not in plan.recipe
    assert plan.model.depth == len(blocks_of(model))
