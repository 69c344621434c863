"""The search under a budget: its latency table, its trials, its front and its budgets."""

import json
import math

import pytest
import torch
from conftest import make_images, make_model, plan_of

import sparsight
from sparsight.methods import tensor_name
from sparsight.plan import Plan
from sparsight.stages.search import Budget, Search, search
from sparsight.stages.search import trials as trials_module
from sparsight.stages.search.front import FINALISTS, finalists, pareto
from sparsight.stages.search.latency import Latency
from sparsight.stages.search.space import SVESpace
from sparsight.stages.search.trials import Trial, run_trials

METHOD = sparsight.SVE(sample_every=4, keep_queries=1 / 8, min_tokens=0)
QUICK = Search(trials=8, population=4)


def space(ranking=(2, 0, 1, 3)):
    return SVESpace(METHOD, ranking, lambda one, two: 0.6)


def cost(settings):
    """A made-up latency: what is kept, on top of one for every layer."""
    if settings is None:
        return 40.0
    kept = sum(settings.kept_at(n)[1] for n in settings.named_layers)
    return 10.0 * (4 - len(settings.named_layers)) + 4.0 * kept


def harm(settings):
    """A made-up error: what is left out, more of it in later layers."""
    if settings is None:
        return 0.0
    left_out = (n * (1 - settings.kept_at(n)[1]) for n in settings.named_layers)
    return 0.01 + 0.1 * sum(left_out)


def trial(latency_ms, error):
    return Trial(key=f"{latency_ms} {error}", latency_ms=latency_ms, error=error, values={})


def test_a_choice_means_settings_of_every_layer():
    genes = space().genes
    assert list(genes) == ["layer.0", "layer.1", "layer.2", "layer.3", "reuse"]
    none = dict.fromkeys(genes, 0)
    assert space().settings(none) is None
    chosen = none | {"layer.1": 2, "layer.2": genes["layer.2"].index(1 / 16)}
    settings = space().settings(chosen)
    assert (settings.layers, settings.keep) == ((1, 2), (3 / 16, 1 / 16))
    assert (settings.keep_queries, settings.groups) == (1 / 8, ())  # the first is not searched
    # Two layers that share 0.6 of their tokens reuse from an overlap of 0.5 on, not of 0.7.
    assert space().settings(chosen | {"reuse": 1}).groups == ()
    assert space().settings(chosen | {"reuse": 2}).groups == ((1, 2),)


def test_starts_take_the_least_harmful_layers_first():
    starts = [space().settings(start) for start in space().starts()]
    assert [s.layers for s in starts[::2]] == [(2,), (0, 2), (0, 1, 2), (0, 1, 2, 3)]
    assert [set(s.keep) for s in starts[:2]] == [{3 / 16}, {1 / 8}]
    assert all(set(start) == set(space().genes) for start in space().starts())


@pytest.mark.parametrize(("preset", "half"), [
    ("nsga2", b""), ("evolution", b""),
    ("nsga2", b'{"op_code": 4, "tri'),  # a full disk cuts a line
    ("nsga2", b'{"op_code": 4, "tri{"op_code": 5}\n'),  # which another was written behind
])  # fmt: skip
def test_the_same_seed_gives_the_same_trials_and_an_interrupted_search_goes_on(tmp_path, preset, half):
    settings = Search(trials=30, population=6, parents=3, preset=preset, seed=3)
    whole = run_trials(space(), settings, cost, harm, None, "recipe")
    assert len({t.key for t in whole}) == len(whole) == 30  # no setting is tried twice

    calls = []

    def killed(chosen):
        calls.append(chosen)
        if len(calls) == 17:
            raise KeyboardInterrupt
        return harm(chosen)

    with pytest.raises(KeyboardInterrupt):
        run_trials(space(), settings, cost, killed, tmp_path, "recipe")
    with (tmp_path / trials_module.JOURNAL).open("ab") as journal:
        journal.write(half)
    resumed = run_trials(space(), settings, cost, harm, tmp_path, "recipe")
    assert pareto(resumed) == pareto(whole)
    assert [t.key for t in resumed] == [t.key for t in whole]

    other = run_trials(space(), settings.model_copy(update={"seed": 4}), cost, harm, None, "recipe")
    assert [t.key for t in other] != [t.key for t in whole]
    with pytest.raises(sparsight.SparsightError, match="another --out"):
        run_trials(space(), settings, cost, harm, tmp_path, "another")


@pytest.mark.parametrize("preset", ["nsga2", "evolution"])
def test_the_search_finds_more_than_its_starts(preset):
    settings = Search(trials=120, population=12, parents=6, preset=preset)
    found = run_trials(space(), settings, cost, harm, None, "recipe")
    starts = {space().settings(s).model_dump_json() for s in space().starts()}
    front = pareto(found)
    assert any(point.key not in starts for point in front)
    first = pareto([t for t in found if t.key in starts])
    # Nothing of the starts' front is lost, and at least one of them is beaten.
    assert all(any(p.latency_ms <= f.latency_ms and p.error <= f.error for p in front) for f in first)
    assert any(p.latency_ms < f.latency_ms and p.error < f.error for p in front for f in first)


def test_evolution_rejects_by_latency_without_measuring_the_error():
    judged = []

    def error(chosen):
        judged.append(cost(chosen))
        return harm(chosen)

    settings = Search(trials=40, population=8, parents=4, preset="evolution")
    run_trials(space(), settings, cost, error, None, "r", within=lambda ms: ms <= 25)
    assert judged
    assert max(judged) <= 25


def test_pareto_and_finalists():
    trials = [trial(4, 1), trial(1, 4), trial(2, 2), trial(3, 2), trial(2, 3), trial(4, 1)]
    assert [(t.latency_ms, t.error) for t in pareto(trials)] == [(4, 1), (2, 2), (1, 4)]
    many = [trial(n, 100 - n) for n in range(40)]
    chosen = finalists(many)
    assert len(chosen) == FINALISTS
    assert (chosen[0], chosen[-1]) == (many[0], many[-1])


FRONT = [
    {"speedup": 1.2, "latency_ms": 80.0, "quality_lost": 0.001},
    {"speedup": 1.6, "latency_ms": 60.0, "quality_lost": 0.004},
    {"speedup": 2.1, "latency_ms": 45.0, "quality_lost": 0.030},
]


def test_a_budget_chooses_by_what_was_measured():
    assert Budget(speedup=1.5).choose(FRONT) == 1
    assert Budget(latency_ms=50).choose(FRONT) == 2
    assert Budget(max_loss=0.5).choose(FRONT) == 1
    assert Budget(max_loss=5).choose(FRONT) == 2


@pytest.mark.parametrize(
    ("budget", "best"),
    [
        (Budget(speedup=3), "3x as fast; the fastest reaches 2.10x"),
        (Budget(latency_ms=20), "within 20 ms; the fastest takes 45.0 ms"),
        (Budget(max_loss=0.05), "the best loses 0.10"),
    ],
)
def test_a_budget_that_cannot_be_met_says_the_best_that_can(budget, best):
    with pytest.raises(sparsight.SparsightError, match=best):
        budget.choose(FRONT)


@pytest.mark.parametrize(
    "given", [{}, {"speedup": 2, "max_loss": 1}, {"speedup": 0}, {"latency_ms": -1}]
)
def test_a_budget_is_one_positive_number(given):
    with pytest.raises(sparsight.SparsightError, match=r"(?i)budget"):
        Budget(**given)


def test_latency_is_the_dense_model_with_blocks_exchanged(tmp_path):
    model = make_model("dinov3")
    picture = make_images(model, batch=1)
    latency = Latency(model, picture, Plan(methods=(METHOD,)), tmp_path / "latency.json")
    settings = METHOD.model_copy(
        update={"layers": (0, 1, 3), "keep": (1 / 4, 1 / 4, 1 / 8), "groups": ((0, 1),)}
    )
    predicted = latency(settings)
    ms = latency.table.ms
    dense = next(v for k, v in ms.items() if k.endswith(": dense"))
    ways = {k.rpartition(": ")[2]: v for k, v in ms.items() if "queries" in k}
    assert len(ways) == 3  # predicts at 1/4, reuses at 1/4, predicts at 1/8: a block is timed once each
    assert predicted == pytest.approx(ms["dense model"] - 3 * dense + sum(ways.values()))
    # Another object reads the same figures back, and measures nothing new.
    again = Latency(model, picture, Plan(methods=(METHOD,)), tmp_path / "latency.json")
    assert again(settings) == predicted
    assert again.table.ms == ms


@pytest.mark.parametrize(
    "method",
    [
        sparsight.SVE(layers=(1, 2), keep=1 / 4, min_tokens=0, completion="map", score="linear"),
        sparsight.SPOT(stages=(1, 3), hidden=8, min_tokens=0, completion="map"),
    ],
)
def test_latency_needs_no_maps(method):
    model = make_model("augreg")
    plan = plan_of(model, method)
    networks = {k: v for k, v in plan.weights.items() if ".map" not in k}
    bare = Plan(methods=plan.methods).with_(weights=networks)
    latency = Latency(model, make_images(model, batch=1), bare, None)
    assert latency(plan.methods[0]) > 0


def test_a_search_completes_every_point_of_the_front(tmp_path):
    model, images = make_model("augreg"), list(make_images(make_model("augreg"), 6, (9, 8)))
    method = METHOD.completed()
    plan = search(model, images, Budget(speedup=1e-3), tmp_path, method, QUICK)
    assert plan.sve.completion == "map"
    for row in json.loads((tmp_path / "front.json").read_text())["rows"]:
        point = sparsight.load(tmp_path / "front" / row["point"])
        maps = {tensor_name("sve", layer, "map") for layer in point.sve.layers}
        assert set(point.weights) == maps
        assert all(point.weights[name].abs().max() > 0 for name in maps)


def test_a_half_model_is_searched_in_its_own_precision(tmp_path):
    model = make_model("augreg").bfloat16()
    images = list(make_images(make_model("augreg"), 6, (9, 8)))  # pictures are float32, as they are read
    plan = search(model, images, Budget(speedup=1e-3), tmp_path, METHOD.completed(), QUICK)
    table = json.loads((tmp_path / "front.json").read_text())
    assert all(math.isfinite(row["search_error"]) for row in table["rows"])
    assert all(value.dtype == torch.float32 for value in plan.weights.values())
    sparsight.apply(model, plan)
    with torch.inference_mode():
        found = model.forward_features(images[0][None].bfloat16())
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()


def test_a_search_is_over_one_method(tmp_path):
    model = make_model("augreg")
    both = Plan(methods=(METHOD, sparsight.EarlyExit()))
    with pytest.raises(sparsight.PlanError, match=r"one method, and the plan has sve \+ early-exit"):
        search(model, make_images(model), Budget(speedup=2), tmp_path, start=both)


def test_a_latency_table_of_another_machine_or_dtype_is_refused(tmp_path):
    model, file = make_model("augreg"), tmp_path / "latency.json"
    picture = make_images(model, batch=1)
    Latency(model, picture, Plan(methods=(METHOD,)), file)(None)
    with pytest.raises(sparsight.SparsightError, match=r"measured with dtype 'float32', and here"):
        Latency(model.double(), picture.double(), Plan(methods=(METHOD,)), file)
    table = json.loads(file.read_text())
    table["setting"]["machine"] = "another"
    file.write_text(json.dumps(table))
    with pytest.raises(sparsight.SparsightError, match="measured with machine 'another'"):
        Latency(model.float(), picture, Plan(methods=(METHOD,)), file)
    file.write_text("{")
    with pytest.raises(sparsight.SparsightError, match="no latency table"):
        Latency(model, picture, Plan(methods=(METHOD,)), file)


def test_search_saves_a_front_of_runs_and_the_chosen_one(tmp_path):
    model = make_model("augreg")
    keys, images = list(model.state_dict()), make_images(model, batch=4, grid=(9, 8))
    before = model.forward_features(images)
    plan = search(model, images, Budget(speedup=1e-3), tmp_path, METHOD, QUICK)
    front = json.loads((tmp_path / "front.json").read_text())
    rows = front["rows"]
    assert len(front["trials"]) == 8
    assert sparsight.load(tmp_path) == plan
    assert plan.reasons
    errors = [row["search_error"] for row in rows]
    assert errors == sorted(errors)  # from slow and faithful to fast
    assert [row["predicted_ms"] for row in rows] == sorted(
        (r["predicted_ms"] for r in rows), reverse=True
    )
    for row in rows:
        point = sparsight.load(tmp_path / "front" / row["point"])
        changed = sparsight.apply(model, point)
        assert changed.forward_features(images).shape == before.shape
        sparsight.restore(model)
    assert list(model.state_dict()) == keys
    assert torch.equal(model.forward_features(images), before)


def test_the_front_is_saved_when_the_budget_cannot_be_met(tmp_path):
    model = make_model("augreg")
    with pytest.raises(sparsight.SparsightError, match="the fastest reaches"):
        search(model, make_images(model), Budget(speedup=1e6), tmp_path, METHOD, QUICK)
    assert (tmp_path / "front.json").exists()
    assert not (tmp_path / "plan.json").exists()


def test_a_search_needs_two_images_and_a_dense_model(tmp_path):
    model = make_model("augreg")
    with pytest.raises(sparsight.ImagesError, match="two images"):
        search(model, make_images(model, batch=1), Budget(speedup=2), tmp_path)
    sparsight.apply(model, sparsight.SVE(layers=(1,)))
    with pytest.raises(sparsight.PlanError, match="restore"):
        search(model, make_images(model), Budget(speedup=2), tmp_path)


def test_a_missing_optuna_is_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(sparsight.SparsightError, match=r"pip install 'sparsight\[search\]'"):
        trials_module.run_trials(space(), QUICK, cost, harm, None, "r")


def test_spot_is_searched_by_rho_and_stages():
    from sparsight.stages.search.tokens import RHOS, SPOTSpace

    genes = SPOTSpace(sparsight.SPOT(stages=(1, 3))).genes
    assert list(genes["stages"]) == [(1, 3), (1,), (3,)]
    found = SPOTSpace(sparsight.SPOT(stages=(1, 3))).settings({"rho": RHOS.index(0.7), "stages": 1})
    assert (found.rho, found.stages) == (0.7, (1,))


def test_early_exit_is_searched_by_layers_share_and_score(tmp_path):
    model = make_model("augreg")
    images = make_images(model, batch=6, grid=(20, 20))  # 400 tokens: enough for maps of 49 rows
    method = sparsight.EarlyExit(min_tokens=0)
    settings = QUICK.model_copy(update={"trials": 4})
    plan = search(model, images, Budget(max_loss=100.0), tmp_path, method, settings)
    found = plan.one(sparsight.EarlyExit)
    assert found.after in {(1,), (1, 2)}  # of four layers: there is nothing to skip after the last
    assert (found.completion, found.bound) == ("map", None)
    sparsight.apply(model, tmp_path)  # with maps of its own, fitted for its settings
    front = json.loads((tmp_path / "front.json").read_text())
    assert len({trial["key"] for trial in front["trials"]}) == 4


def test_a_search_of_spot_without_networks_says_how_to_train_them(tmp_path):
    model = make_model("augreg")
    with pytest.raises(sparsight.PlanError, match=r"train them with sparsight\.optimize"):
        search(model, make_images(model), Budget(speedup=2), tmp_path, sparsight.SPOT(), QUICK)


def test_the_command_searches_and_says_what_goes_together(tmp_path):
    from typer.testing import CliRunner

    from sparsight.cli import app

    def run(*more):
        command = ["optimize", "demo", "--out", str(tmp_path), "--resolution", "128", "--published"]
        return CliRunner().invoke(app, [*command, *more])

    done = run("--speedup", "0.01", "--trials", "3", "--max-images", "1")
    assert done.exit_code == 0, done.output
    assert sparsight.load(tmp_path).source == "demo"
    rows = json.loads((tmp_path / "front.json").read_text())["rows"]
    assert all((tmp_path / "front" / row["point"] / "plan.json").exists() for row in rows)
    for more, said in (
        (("--speedup", "2", "--max-loss", "1"), "give one of"),
        (("--speedup", "2", "--distill"), "a search is over one method: leave out --layers, --distill"),
        (("--speedup", "2", "--layers", "1-2"), "leave out --layers"),
        (("--speedup", "2", "--method", "sve", "--method", "early-exit"), "over one method"),
        (("--speedup", "2", "--method", "tome"), "there is no search for tome"),
    ):
        done = run(*more)
        assert done.exit_code == 1
        assert said in done.output
