"""Arguments and settings that are not what they have to be: one sentence, before any work."""

from pathlib import Path

import pytest
import torch
from conftest import make_images, make_model
from test_images import fill

import sparsight
from sparsight.arguments import checked
from sparsight.encode.settings import EncoderSettings
from sparsight.errors import LONGEST, SparsightError

SVE = sparsight.SVE(layers=(0,), min_tokens=0)
WRONG = {
    "a model": lambda m, p: sparsight.apply("demo", SVE),
    "a class": lambda m, p: sparsight.apply(type(m), SVE),
    "a count": lambda m, p: sparsight.analyze(m, p, max_images="x"),
    "too few": lambda m, p: sparsight.analyze(m, p, max_images=-1),
    "part of one": lambda m, p: sparsight.measure(m, sparsight.Plan(methods=(SVE,)), repeats=0.5),
    "a list": lambda m, p: sparsight.measure(m, sparsight.Plan(methods=(SVE,)), batches=-1),
    "settings": lambda m, p: sparsight.optimize(m, p, SVE, distillation="x"),
    "a choice": lambda m, p: sparsight.optimize(m, p, SVE, select_by="by hand"),
    "NaN": lambda m, p: sparsight.optimize(m, p, SVE, max_error=float("nan")),
    "a folder": lambda m, p: sparsight.load(3),
    "a size in words": lambda m, p: sparsight.ImageFolder(".", "square"),
    "no size": lambda m, p: sparsight.evaluate(m, SVE, "features", ".", resolution=0),
    "three sides": lambda m, p: sparsight.measure(
        m, sparsight.Plan(methods=(SVE,)), resolutions=[(64, 64, 3)]
    ),
    "a side below zero": lambda m, p: sparsight.doctor(m, -64),
    "a place": lambda m, p: sparsight.save(sparsight.Plan(methods=(SVE,)), [1]),
    "a plan": lambda m, p: sparsight.measure(m, b"x"),
    "names": lambda m, p: sparsight.compare(m, p, methods=sparsight.Plan(methods=(SVE,))),
    "text": lambda m, p: sparsight.Plan.from_json(3),
    "a budget": lambda m, p: sparsight.Budget(speedup=float("nan")),
    "a fraction": lambda m, p: sparsight.SVE(keep=2),
    "a method": lambda m, p: sparsight.Plan(methods=3),
    "a number in a tensor": lambda m, p: sparsight.SparseViT(sparsity=torch.tensor(3)),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_kind_of_wrong_argument_is_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make_model("augreg")
    pictures = list(make_images(model))
    kind = sparsight.UnsupportedModelError if name in ("a model", "a class") else sparsight.ArgumentError
    with pytest.raises(kind) as refused:
        WRONG[name](model, pictures)
    text = str(refused.value)
    assert 0 < len(text) <= LONGEST
    assert text.isprintable()
    assert not list(tmp_path.iterdir())


def test_one_side_stands_for_a_square_wherever_a_size_is_taken(tmp_path):
    model, folder = make_model("augreg", depth=2), fill(tmp_path / "images", 1, (40, 60))
    pictures = [sparsight.ImageFolder(folder, sides)[0] for sides in (64, (64, 64))]
    assert pictures[0].shape == (3, 64, 64)
    assert torch.equal(*pictures)
    plan = sparsight.Plan(methods=(SVE,))
    measured = sparsight.measure(model, plan, None, [64, (64, 96)], repeats=1)
    assert [case["resolution"] for case in measured["cases"]] == ["64x64"] * 2 + ["64x96"] * 2
    judged = sparsight.evaluate(model, plan, "features", folder, 64)
    assert judged["protocol"]["resolution"] == "64x64"
    assert EncoderSettings(model="demo", resolution=64).resolution == (64, 64)


def test_what_is_declared_is_what_arrives():
    @checked
    def shown(size: tuple[int, int], place: Path, count: int = 1, more: "Unknown" = None, **rest):  # noqa: F821
        return size, place, count, more, rest

    assert shown([3, 4], "a", count=2.0, more=object, other=1) == (
        (3, 4),
        Path("a"),
        2,
        object,
        {"other": 1},
    )
    for wrong in ({"size": (1, 2, 3)}, {"place": 3}, {"count": "many"}):
        with pytest.raises(sparsight.ArgumentError, match=f"shown, {next(iter(wrong))}: "):
            shown(**{"size": (1, 2), "place": "a"} | wrong)
    with pytest.raises(TypeError, match="missing a required argument"):
        shown((1, 2))


def test_a_refusal_is_one_short_line_whatever_it_names():
    for name in ("a\nb", "\udce9", "x" * 5000, "\x1b[31m", "\u202e"):
        text = str(SparsightError(f"there is no folder {name}: name another"))
        assert len(text) <= LONGEST
        assert text.isprintable()
        text.encode("utf-8")
        assert text.startswith("there is no folder ")
        assert text.endswith(": name another")
