"""`progress`: what is done and how much of it, told to the caller in place of a bar."""

import inspect
from itertools import groupby

import pytest
from conftest import make_images, make_model
from encode_data import fill_folder, make_run

import sparsight
from sparsight.encode import EncoderSettings, encode
from sparsight.stages.progress import followed, told, track

SVE = sparsight.SVE(layers=(1,), keep=0.5, min_tokens=0)
PLAN = sparsight.Plan(methods=(SVE,))
VERBS = {  # who is told -> a stage that must be among those told of
    "analyze": ("Analyzing", lambda m, p, t, say: sparsight.analyze(m, p, progress=say)),
    "optimize": (
        "Completing",
        lambda m, p, t, say: sparsight.optimize(m, p, sparsight.MLPRouting(min_tokens=0), progress=say),
    ),
    "measure": (
        "Measuring 64x64",
        lambda m, p, t, say: sparsight.measure(m, PLAN, None, [64], repeats=2, progress=say),
    ),
    "compare": (
        "Comparing features",
        lambda m, p, t, say: sparsight.compare(m, p, methods=["tome"], repeats=1, progress=say),
    ),
    "evaluate": (
        "Comparing features",
        lambda m, p, t, say: sparsight.evaluate(
            m, PLAN, "features", fill_folder(t / "p", 3), 64, progress=say
        ),
    ),
    "encode": (
        "Encoding",
        lambda m, p, t, say: encode(
            EncoderSettings(model=str(make_run(t)), max_tokens=48),
            fill_folder(t / "images", 3),
            t / "sink",
            progress=say,
        ),
    ),
}
TRAINING = {"adapt", "finetune", "fit_relevance", "search"}  # told by the same loops, and slow


def test_every_verb_that_may_take_minutes_can_be_followed():
    public = {name: getattr(sparsight, name) for name in sparsight.__all__}
    functions = {name: value for name, value in public.items() if inspect.isfunction(value)}
    taking = {n for n, f in functions.items() if "progress" in inspect.signature(f).parameters}
    assert taking == VERBS.keys() - {"encode"} | TRAINING


@pytest.mark.parametrize("verb", VERBS)
def test_each_stage_is_told_from_nothing_to_all_of_it(verb, tmp_path, capsys):
    what, call = VERBS[verb]
    heard = []
    model = make_model("augreg", depth=3)
    call(model, list(make_images(model, 4)), tmp_path, lambda *now: heard.append(now))
    assert what in {name for name, _, _ in heard}
    stages = [list(told_of) for _, told_of in groupby(heard, key=lambda now: (now[0], now[2]))]
    for stage in stages:
        done, total = [now[1] for now in stage], stage[0][2]
        assert (done[0], done[-1]) == (0, total)
        assert done == sorted(done)
    assert capsys.readouterr().err == ""
    assert told() is None


def test_a_stage_whose_end_is_not_known_says_so():
    heard = []

    @followed
    def work(progress=None):
        return list(track(iter("ab"), "Distilling", None))

    assert work(progress=lambda what, done, of: heard.append((done, of))) == ["a", "b"]
    assert heard == [(0, 0), (1, 0), (2, 0), (2, 2)]


def test_what_it_raises_ends_the_work_and_the_same_call_goes_on(tmp_path):
    model = make_model("augreg")
    pictures, method = list(make_images(model, 4)), sparsight.MLPRouting(layers=(1, 2), min_tokens=0)

    class Enough(Exception):
        pass

    def enough(what, done, total):
        if (what, done) == ("Completing", 1):
            raise Enough

    straight = sparsight.optimize(model, pictures, method)
    with pytest.raises(Enough):
        sparsight.optimize(model, pictures, method, tmp_path / "run", progress=enough)
    heard = []
    plan = sparsight.optimize(
        model, pictures, method, tmp_path / "run", progress=lambda *now: heard.append(now)
    )
    assert plan == straight
    assert ("Completing", 0, 1) in heard or ("Completing", 1, 1) in heard  # one of two was left
    assert told() is None


def test_what_cannot_be_called_is_refused():
    model = make_model("augreg", depth=1)
    with pytest.raises(sparsight.ArgumentError, match="analyze, progress: "):
        sparsight.analyze(model, list(make_images(model)), progress="a bar")
