"""The search under a budget: its latency table, its trials, its front and its budgets."""

import json
import math
import random
from itertools import product

import pytest
import torch
from conftest import make_images, make_model, plan_of

import sparsight
from sparsight.attach import family_in
from sparsight.fit import resolve
from sparsight.methods import tensor_name
from sparsight.plan import Plan
from sparsight.stages import timing
from sparsight.stages.search import Budget, Search, search
from sparsight.stages.search import trials as trials_module
from sparsight.stages.search.front import FINALISTS, finalists, pareto
from sparsight.stages.search.latency import Latency
from sparsight.stages.search.layers import MLPPart, SVEPart
from sparsight.stages.search.space import INFEASIBLE, Space, key_of
from sparsight.stages.search.tokens import RHOS, ExitPart, SPOTPart
from sparsight.stages.search.trials import MARGIN, Trial, run_trials

METHOD = sparsight.SVE(sample_every=4, keep_queries=1 / 8, min_tokens=0)
QUICK = Search(trials=8, population=4)
EXIT = sparsight.EarlyExit(min_tokens=0)
ROUTING = sparsight.MLPRouting(min_tokens=0)


@pytest.fixture(autouse=True)
def operations(monkeypatch):
    """Operations in the place of milliseconds: what is tried and chosen does not hang on the machine."""

    def counted(arms, repeats, device, what):
        return {key: [timing.gflops(call)] * repeats for key, call in arms.items()}

    monkeypatch.setattr(timing, "interleave", counted)


def part(base=METHOD, ranking=(2, 0, 1, 3)):
    return SVEPart(base, ranking, lambda one, two: 0.6)


def space(**parts):
    return Space(parts or {"sve": part()}, 4)


def combined(depth=4):
    layers = tuple(range(depth))
    parts = {"sve": part(METHOD.completed(), layers), "early-exit": ExitPart(EXIT, depth)}
    return Space(parts | {"mlp-routing": MLPPart(ROUTING, layers)}, depth)


def cost(methods):
    """A made-up latency: what is kept, on top of one for every layer."""
    if not methods:
        return 40.0
    (settings,) = methods
    kept = sum(settings.kept_at(n)[1] for n in settings.named_layers)
    return 10.0 * (4 - len(settings.named_layers)) + 4.0 * kept


def harm(methods):
    """A made-up error: what is left out, more of it in later layers."""
    (settings,) = methods
    left_out = (n * (1 - settings.kept_at(n)[1]) for n in settings.named_layers)
    return 0.01 + 0.1 * sum(left_out)


def trial(latency_ms, *errors, whole=True):
    key = f"{latency_ms} {errors}"
    return Trial(key=key, latency_ms=latency_ms, errors=errors, whole=whole, values={})


def test_a_choice_means_settings_of_every_layer():
    genes = space().genes
    assert list(genes)[:5] == ["sve.layer.0", "sve.layer.1", "sve.layer.2", "sve.layer.3", "sve.reuse"]
    none = dict.fromkeys(genes, 0)
    assert space().settings(none) == ()
    chosen = none | {"sve.layer.1": 2, "sve.layer.2": genes["sve.layer.2"].index(1 / 16)}
    (settings,) = space().settings(chosen)
    assert (settings.layers, settings.keep) == ((1, 2), (3 / 16, 1 / 16))
    assert (settings.keep_queries, settings.groups) == (1 / 8, ())  # the first is not searched
    # Two layers that share 0.6 of their tokens reuse from an overlap of 0.5 on, not of 0.7.
    assert space().settings(chosen | {"sve.reuse": 1})[0].groups == ()
    assert space().settings(chosen | {"sve.reuse": 2})[0].groups == ((1, 2),)


def test_starts_take_the_least_harmful_layers_first():
    starts = [part().settings(start) for start in part().starts()]
    assert [s.layers for s in starts[::2]] == [(0, 1, 2, 3), (0, 1, 2), (0, 2), (2,)]
    assert [set(s.keep) for s in starts[:2]] == [{3 / 16}, {1 / 8}]
    assert all(set(start) == set(space().genes) for start in space().starts())


def test_a_combination_is_sparse_only_where_all_tokens_still_are():
    found = combined()
    genes = found.genes
    values = {gene: len(alleles) - 1 for gene, alleles in genes.items()}
    values |= {"early-exit.after": genes["early-exit.after"].index((1,)), "early-exit.score": 0}
    sve, leaving, routing = found.settings(values)
    assert (sve.layers, leaving.after, routing.layers) == ((0, 1), (1,), (0, 1, 2, 3))
    values |= dict.fromkeys(("sve.layer.0", "sve.layer.1"), 0)
    assert [type(m).__name__ for m in found.settings(values)] == ["EarlyExit", "MLPRouting"]
    assert found.settings(dict.fromkeys(genes, 0)) == ()
    starts = [[type(m).__name__ for m in found.settings(start)] for start in found.starts()]
    assert starts[:2] == [["SVE", "EarlyExit"], ["SVE", "EarlyExit", "MLPRouting"]]
    assert starts[-2:] == [["SVE"], ["EarlyExit"]]


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7, 12])
def test_no_choice_is_refused_by_the_model(depth):
    model, draw, found = make_model("augreg", depth=depth), random.Random(0), combined(depth)
    if depth == 1:  # nothing to skip after the only layer
        found = Space({name: p for name, p in found.parts.items() if name != "early-exit"}, depth)
    choices = [
        {g: draw.randrange(len(alleles)) for g, alleles in found.genes.items()} for _ in range(40)
    ]
    for values in [*choices, *found.starts()]:
        if methods := found.settings(values):
            again = [type(method)(**method.model_dump()) for method in methods]  # valid in themselves
            plan = plan_of(model, *again)
            resolve(plan, model, family_in(model))  # and together


@pytest.mark.parametrize(("given", "scores"), [
    ({"completion": "last"}, ["standout", "sampled"]),  # there is no map whose error to predict
    ({"recover": 3}, ["standout", "map-error", "sampled"]),
    ({"taps": (1, 2), "score": "contribution"}, None),
    ({"after": (0, 2)}, None),
])  # fmt: skip
def test_choices_of_exits_are_valid_whatever_is_given(given, scores):
    base = sparsight.EarlyExit(min_tokens=0, **given)
    exits = ExitPart(base, 4)
    if scores:
        assert exits.genes["score"] == scores
    names, alleles = zip(*exits.genes.items(), strict=True)
    for numbers in product(*(range(len(a)) for a in alleles)):
        found = exits.settings(dict(zip(names, numbers, strict=True)))
        if found is not None:
            sparsight.EarlyExit(**found.model_dump()).resolved((0, 1, 2, 3), 4)
            assert base.after is None or set(found.after) <= set(base.after)


@pytest.mark.parametrize(("preset", "half", "at"), [
    ("nsga2", b"", 17), ("evolution", b"", 17),
    ("nsga2", b"", 16),
    ("nsga2", b'{"op_code": 4, "tri', 17),  # a full disk cuts a line
    ("nsga2", b'{"op_code": 4, "tri{"op_code": 5}\n', 18),  # which another was written behind
])  # fmt: skip
def test_the_same_seed_gives_the_same_trials_and_an_interrupted_search_goes_on(
    tmp_path, preset, half, at
):
    settings = Search(trials=30, population=6, parents=3, preset=preset, seed=3)
    whole = run_trials(space(), settings, cost, [harm], None, "recipe")
    assert len({t.key for t in whole}) == len(whole) == 30  # no setting is tried twice

    calls = []

    def killed(chosen):
        calls.append(chosen)
        if len(calls) == at:
            raise KeyboardInterrupt
        return harm(chosen)

    with pytest.raises(KeyboardInterrupt):
        run_trials(space(), settings, cost, [killed], tmp_path, "recipe")
    with (tmp_path / trials_module.JOURNAL).open("ab") as journal:
        journal.write(half)
    resumed = run_trials(space(), settings, cost, [harm], tmp_path, "recipe")
    assert pareto(resumed) == pareto(whole)
    assert [t.key for t in resumed] == [t.key for t in whole]

    other = run_trials(space(), settings.model_copy(update={"seed": 4}), cost, [harm], None, "recipe")
    assert [t.key for t in other] != [t.key for t in whole]
    with pytest.raises(sparsight.SparsightError, match="another --out"):
        run_trials(space(), settings, cost, [harm], tmp_path, "another")


@pytest.mark.parametrize("preset", ["nsga2", "evolution"])
def test_the_search_finds_more_than_its_starts(preset):
    settings = Search(trials=120, population=12, parents=6, preset=preset)
    found = run_trials(space(), settings, cost, [harm], None, "recipe")
    starts = {key_of(space().settings(s)) for s in space().starts()}
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
    run_trials(space(), settings, cost, [error], None, "r", within=lambda ms: ms <= 25)
    assert judged
    assert max(judged) <= 25


def test_pareto_and_finalists():
    trials = [trial(4, 1), trial(1, 4), trial(2, 2), trial(3, 2), trial(2, 3), trial(4, 1)]
    assert [(t.latency_ms, t.error) for t in pareto(trials)] == [(4, 1), (2, 2), (1, 4)]
    dropped, refused = trial(0.5, 0.1, whole=False), trial(0.6, INFEASIBLE)
    assert pareto([*trials, dropped, refused]) == pareto(trials)
    many = [trial(n, 100 - n) for n in range(40)]
    chosen = finalists(many)
    assert len(chosen) == FINALISTS
    assert (chosen[0], chosen[-1]) == (many[0], many[-1])
    nearer = finalists(many, wanted_ms=30)
    assert len(nearer) == FINALISTS
    assert (nearer[0], nearer[-1]) == (many[0], many[-1])
    near = [t for t in nearer if abs(t.latency_ms - 30) <= 2]
    assert len(near) >= FINALISTS // 2 > len([t for t in chosen if abs(t.latency_ms - 30) <= 2])


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
    predicted = latency((settings,))
    ms = latency.table.ms
    dense = next(v for k, v in ms.items() if k.endswith(": dense"))
    ways = {k.rpartition(": ")[2]: v for k, v in ms.items() if "queries" in k}
    assert len(ways) == 3  # predicts at 1/4, reuses at 1/4, predicts at 1/8: a block is timed once each
    assert predicted == pytest.approx(ms["dense model"] - 3 * dense + sum(ways.values()))
    # Another object reads the same figures back, and measures nothing new.
    again = Latency(model, picture, Plan(methods=(METHOD,)), tmp_path / "latency.json")
    assert again((settings,)) == predicted
    assert again.table.ms == ms


FEW = sparsight.SVE(layers=(0, 1), keep=1 / 8, min_tokens=0, completion="map")
PLANS = (
    (),
    (FEW,),
    (FEW.model_copy(update={"groups": ((0, 1),)}),),
    (FEW, sparsight.EarlyExit(after=(1,), keep=0.3, min_tokens=0)),
    (FEW, sparsight.EarlyExit(after=(1,), keep=0.3, min_tokens=0),
     sparsight.MLPRouting(layers=(0, 3), keep=1 / 4, min_tokens=0)),
    (sparsight.EarlyExit(after=(0, 2), keep=(0.5, 0.2), taps=(2,), score="sampled", min_tokens=0),),
    (sparsight.EarlyExit(after=(0,), keep=0.6, score="map-error", completion="map", min_tokens=0),),
    (sparsight.SPOT(stages=(1, 3), hidden=8, min_tokens=0),),
)  # fmt: skip


@pytest.mark.parametrize("name", ["augreg", "hf_dinov2", "eva02"])
def test_the_parts_of_any_combination_add_up_to_the_whole(name):
    """What is predicted is what the plan really does."""
    model = make_model(name)
    picture = make_images(model, batch=1, grid=(18, 15))
    family, networks = family_in(model), plan_of(model, sparsight.SPOT(stages=(1, 3), hidden=8))
    latency = Latency(model, picture, Plan(methods=(FEW,)).with_(weights=networks.weights), None)
    for methods in PLANS:
        predicted = latency(methods)
        with sparsight.sparse(model, plan_of(model, *methods)) if methods else torch.no_grad():
            whole = timing.gflops(lambda: family.features(model, picture))
        assert predicted == pytest.approx(whole, rel=1e-6), [m.label() for m in methods]


def test_a_slower_machine_meanwhile_does_not_matter(monkeypatch):
    pace = iter(
        (1.0, 1.0, 3.0)
    )  # the third time anything is timed, everything takes three times as long

    def clock(arms, repeats, device, what):
        slow = next(pace)
        return {key: [slow * timing.gflops(call)] * repeats for key, call in arms.items()}

    model = make_model("augreg")
    picture = make_images(model, batch=1, grid=(18, 15))
    monkeypatch.setattr(timing, "interleave", clock)
    latency = Latency(model, picture, Plan(methods=(FEW,)), None)
    one, two = FEW.model_copy(update={"keep": 1 / 4}), FEW
    assert latency((one,)) > latency((two,))  # which is timed while the machine is slow


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
    assert latency(plan.methods) > 0


def test_a_search_completes_every_point_of_the_front(tmp_path):
    model, images = make_model("augreg"), list(make_images(make_model("augreg"), 6, (9, 8)))
    method = METHOD.completed()
    search(model, images, Budget(speedup=1e-3), tmp_path, method, QUICK)
    for row in json.loads((tmp_path / "front.json").read_text())["rows"]:
        point = sparsight.load(tmp_path / "front" / row["point"])
        completed = point.sve.layers if point.sve.completion == "map" else ()  # a choice, too
        maps = {tensor_name("sve", layer, "map") for layer in completed}
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


def test_a_search_combines_what_goes_best_together_and_goes_on_after_an_interrupt(tmp_path, monkeypatch):
    from sparsight.stages.search import run as run_module

    model = make_model("augreg")
    images = make_images(model, batch=6, grid=(20, 20))
    table = tmp_path / "latency.json"  # the same for both, as trials depend on it

    def searched(out):
        settings = Search(trials=12, population=4)
        return search(model, images, Budget(max_loss=100.0), out, None, settings, latency_table=table)

    whole = searched(tmp_path / "whole")
    front = json.loads((tmp_path / "whole" / "front.json").read_text())
    tried = [set(json.loads(t["key"])) for t in front["trials"]]
    assert {"sve", "early-exit"} in tried
    assert len(front["trials"]) == 12
    assert any(not t["whole"] for t in front["trials"])  # some are told from one picture
    assert all(len(t["errors"]) == (2 if t["whole"] else 1) for t in front["trials"])
    maps = {k.split(".")[0] for k in sparsight.load(tmp_path / "whole" / "front" / "00").weights}
    assert maps  # of whatever the slowest point completes
    assert not list((tmp_path / "whole").rglob("completion.safetensors"))

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    out = tmp_path / "killed"
    with monkeypatch.context() as patched:
        patched.setattr(run_module.fronts, "run_front", killed)
        with pytest.raises(KeyboardInterrupt):
            searched(out)
    fitted = []
    monkeypatch.setattr("sparsight.stages.complete._fit", lambda b, s, todo, saved: fitted.append(todo))
    again = searched(out)
    assert fitted == [{}] * len(list((out / "front").iterdir()))  # nothing is fitted again
    rows = [json.loads((f / "front.json").read_text()) for f in (tmp_path / "whole", out)]
    assert [t["key"] for t in rows[0]["trials"]] == [t["key"] for t in rows[1]["trials"]]
    assert again.weights.keys() == again.tensors.keys()
    assert whole.methods in [sparsight.load(out / "front" / r["point"]).methods for r in rows[1]["rows"]]


def test_those_that_others_beat_by_a_margin_on_one_picture_are_dropped():
    dear = []

    def all_pictures(methods):
        dear.append(key_of(methods))
        return harm(methods)

    settings = Search(trials=30, population=6)
    found = run_trials(space(), settings, cost, [harm, all_pictures], None, "r")
    assert len(dear) == sum(t.whole for t in found) < len(found)
    for late in (t for t in found if not t.whole):  # each for a reason, that was there before it
        before = found[: found.index(late)]
        assert any(t.latency_ms <= late.latency_ms and t.errors[0] * (1 + MARGIN) < late.errors[0]
                   for t in before)  # fmt: skip
    # As one picture tells here what all do, nothing of the front is lost.
    assert [t.key for t in pareto(found)] == [
        t.key for t in pareto([t.model_copy(update={"whole": True}) for t in found])
    ]


def test_maps_that_one_picture_cannot_determine_are_fitted_on_more():
    def one_picture(methods):
        return INFEASIBLE

    found = run_trials(space(), QUICK, cost, [one_picture, harm], None, "r")
    assert all(t.whole and t.error < INFEASIBLE for t in found if t.key != "dense")


def test_named_layers_are_all_that_a_search_changes(tmp_path):
    model = make_model("augreg")
    method = METHOD.model_copy(update={"layers": (1, 3)})
    search(model, make_images(model, batch=4), Budget(max_loss=100.0), tmp_path, method, QUICK)
    for row in json.loads((tmp_path / "front.json").read_text())["rows"]:
        assert set(sparsight.load(tmp_path / "front" / row["point"]).sve.layers) <= {1, 3}


@pytest.mark.parametrize(("methods", "said"), [
    ([EXIT, sparsight.SPOT()], "both take tokens or windows out of the blocks: choose one"),
    ([METHOD, METHOD], "SVE twice"),
    ([METHOD, sparsight.ToMe()], "there is no search for tome"),
    ([METHOD, sparsight.EarlyExit(score="map-error", bound="calibrated")], "leave out bound"),
    ([METHOD.model_copy(update={"layers": (9,)})], "layers 0 to 3"),
    ([sparsight.SparseViT()], "drops windows, and no block"),
    ([], "no methods"),
])  # fmt: skip
def test_what_cannot_be_searched_together_is_refused_before_any_work(methods, said, tmp_path):
    model = make_model("augreg")
    with pytest.raises(sparsight.PlanError, match=said) as refused:
        search(model, make_images(model), Budget(speedup=2), tmp_path / "out", methods)
    assert len(str(refused.value)) <= 300
    assert not (tmp_path / "out").exists()


def test_a_search_in_which_no_map_can_be_fitted_says_why(tmp_path):
    model = make_model("augreg")  # 2 pictures of 63 tokens to search on, and a map has 49 rows
    with pytest.raises(
        sparsight.SparsightError, match=r"none of .* could be judged: the map of early-exit"
    ):
        search(model, make_images(model, 4), Budget(speedup=2), tmp_path, EXIT, QUICK)


def test_windows_and_keys_of_the_global_blocks_are_searched_together(tmp_path):
    from conftest import make_timm_sam2

    model = make_timm_sam2()
    methods = [sparsight.SVE(), sparsight.SparseViT()]
    images = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    search(model, images, Budget(max_loss=100.0), tmp_path, methods, Search(trials=10, population=4))
    tried = [
        set(json.loads(t["key"])) for t in json.loads((tmp_path / "front.json").read_text())["trials"]
    ]
    assert {"sve", "sparsevit"} in tried


def test_a_latency_table_of_another_machine_or_dtype_is_refused(tmp_path):
    model, file = make_model("augreg"), tmp_path / "latency.json"
    picture = make_images(model, batch=1)
    Latency(model, picture, Plan(methods=(METHOD,)), file)(())
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
        trials_module.run_trials(space(), QUICK, cost, [harm], None, "r")


def test_spot_is_searched_by_rho_and_stages():
    spot = SPOTPart(sparsight.SPOT(stages=(1, 3)))
    assert list(spot.genes["stages"]) == [None, (1, 3), (1,), (3,)]
    found = spot.settings({"rho": RHOS.index(0.7), "stages": 2})
    assert (found.rho, found.stages) == (0.7, (1,))


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
    points = [sparsight.load(tmp_path / "front" / row["point"]) for row in rows]
    # As published: nothing completes what is skipped.
    assert not any(".map" in name for point in points for name in point.weights)
    for more, said in (
        (("--speedup", "2", "--max-loss", "1"), "give one of"),
        (("--speedup", "2", "--distill"), "distil first"),
        (("--speedup", "2", "--keep", "0.5"), "leave out --keep"),
        (("--speedup", "2", "--method", "sve", "--method", "tome"), "there is no search for tome"),
        (("--speedup", "2", "--start", str(tmp_path), "--layers", "1"), "name them, or leave"),
    ):
        done = run(*more)
        assert done.exit_code == 1
        assert said in done.output
