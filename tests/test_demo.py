"""The embedded encoder is what its facts say, and the demo runs on it."""

from pathlib import Path

import pytest
import torch

import sparsight
from sparsight.demo import encoder
from sparsight.demo import run as running
from sparsight.demo.evaluate import ScenePictures, SceneSamples, evaluate
from sparsight.demo.run import BEST, RELEVANCE, packaged_plan, run_demo, settings
from sparsight.demo.scenes import KINDS, SceneSet
from sparsight.families import family_of
from sparsight.stages.arm import Arm

WEIGHTS = Path(encoder.__file__).parent / "weights"


@pytest.fixture(scope="module")
def model():
    """The trained encoder."""
    return encoder.load()


def test_it_is_a_plain_timm_vit_of_the_promised_size(model):
    assert family_of(model).name == "timm_vit"
    assert len(model.blocks) >= 12
    assert sum(p.numel() for p in model.parameters()) >= 2_000_000
    assert sum(f.stat().st_size for f in WEIGHTS.rglob("*.safetensors")) <= 12_000_000


def test_label_map_puts_cells_in_their_place(model):
    class Head(torch.nn.Module):
        """Writes patch number, then class and cell, where one can read them."""

        def forward(self, tokens):
            cells = torch.arange(encoder.CLASSES * encoder.CELLS**2)
            return torch.arange(tokens.shape[1])[None, :, None] * 10_000 + cells

    class Model:
        num_prefix_tokens = 1
        segmentation = Head()

    got = encoder.label_map(Model(), torch.zeros(1, 7, encoder.DIM), (32, 48))
    assert got.shape == (1, encoder.CLASSES, 16, 24)
    for c, y, x in ((0, 0, 0), (3, 5, 9), (10, 15, 23)):
        patch = (y // 8) * 3 + x // 8
        assert got[0, c, y, x] == patch * 10_000 + c * 64 + (y % 8) * 8 + x % 8


def test_it_scores_as_recorded(model):
    recorded = encoder.facts()["held_out"]
    assert recorded["scores"]["1024x1024"]["miou"] >= 0.75
    scenes = SceneSet(10, (512, 512), recorded["first_seed"])  # a fifth of the work of six at 1024 px
    row = evaluate({"dense": Arm(model)}, SceneSamples(scenes))["dense"]
    # Ten scenes hold some 100 objects, so a kind may be seen five times; single mistakes weigh 0.02.
    assert row["miou"] == pytest.approx(recorded["scores"]["512x512"]["miou"], abs=0.1)
    assert row["relative_error"] == row["miou_low"] == row["miou_high"] == 0


def test_an_untrained_encoder_scores_next_to_nothing():
    row = evaluate({"dense": Arm(encoder.build().eval())}, SceneSamples(SceneSet(2, (256, 256), 5)))
    assert row["dense"]["miou"] < 0.1


def test_the_packaged_plan_fits_the_encoder(model):
    plan = packaged_plan()
    assert all(value.dtype == torch.float32 for value in plan.weights.values())
    sparsight.apply(model, plan)
    sparsight.restore(model)


def test_the_package_has_the_weights_it_names_and_no_others():
    assert {path.name for path in WEIGHTS.iterdir()} == {
        "encoder.json", "encoder.safetensors", RELEVANCE,
    }  # fmt: skip
    assert packaged_plan().one(sparsight.SPOT).completion == "last"


def test_the_rows_are_published_completed_and_combined():
    rows = settings()
    assert rows["sve + early-exit"] == BEST
    (published,), (completed,) = rows["sve"], rows["sve-completed"]
    assert (published.completion, completed.completion) == ("none", "map")
    assert published.completed() == completed
    assert {m.completion for (m,) in (rows["early-exit-last-value"], rows["early-exit"])} == {
        "last", "map",
    }  # fmt: skip
    for methods in rows.values():
        assert sparsight.Plan(methods=methods).label


@pytest.fixture
def few_scenes(monkeypatch):
    """To calibrate on: enough for maps of 129 rows."""
    monkeypatch.setattr(running, "CALIBRATION_SCENES", 2)


@pytest.mark.usefixtures("few_scenes")
def test_demo_runs_and_says_everything(tmp_path):
    said = []
    result = run_demo(tmp_path, (512, 512), scenes=2, repeats=1, full=False, say=said.append)
    assert len(said) == 4
    names = [row["name"] for row in result["rows"]]
    assert names[0] == "dense"
    assert names[1:] == list(settings())
    keys = {
        "name", "latency_ms", "speedup", "gflops", "miou", "accuracy", "relative_error", "cosine",
    }  # fmt: skip
    assert all(keys <= set(row) for row in result["rows"])
    dense = result["rows"][0]
    assert (dense["speedup"], dense["relative_error"]) == (1, 0)
    assert all(
        row["miou_low"] <= row["miou"] - dense["miou"] <= row["miou_high"] for row in result["rows"]
    )
    assert all(row["relative_error"] > 0 for row in result["rows"][1:])
    assert all(0 <= row["miou"] <= 1 for row in result["rows"])
    needed = {"machine", "versions", "dtype", "threads", "resolution", "batch", "repeats"}
    assert needed <= set(result["protocol"])
    plan = sparsight.load(tmp_path)
    assert [type(method) for method in plan.methods] == [sparsight.SVE, sparsight.EarlyExit]
    assert not any(name.startswith("model.") for name in plan.weights)  # nothing is trained
    by_name = {row["name"]: row for row in result["rows"]}
    # What completion is for.
    assert by_name["sve-completed"]["relative_error"] < by_name["sve"]["relative_error"]
    last, completed = (by_name[name] for name in ("early-exit-last-value", "early-exit"))
    assert completed["relative_error"] < 0.5 * last["relative_error"]


@pytest.mark.usefixtures("few_scenes")
def test_the_full_demo_distils_from_the_completed_model(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "DISTILLATION", sparsight.Distillation(steps=2))
    monkeypatch.setattr(running, "settings", lambda: {"sve-completed": (running.NINE.completed(),)})
    result = run_demo(tmp_path, (256, 256), scenes=1, repeats=1, full=True, say=print)
    assert [row["name"] for row in result["rows"]] == [
        "dense", "sve-completed", "sve-completed-distilled",
    ]  # fmt: skip
    plan = sparsight.load(tmp_path / "distilled")
    assert {f"sve.{layer}.map" for layer in plan.sve.layers} <= plan.weights.keys()
    assert any(name.startswith("model.") for name in plan.weights)


def test_demo_refuses_a_resolution_that_does_not_fit(tmp_path):
    with pytest.raises(sparsight.ImagesError, match="nearest that is: 992x992"):
        run_demo(tmp_path / "run", (1000, 1000), 1, 1, False, print)
    assert not (tmp_path / "run").exists()


def test_calibration_sees_pictures_without_labels():
    pictures = ScenePictures(SceneSet(2, (96, 112), 3))
    assert len(pictures) == 2
    assert pictures[1].shape == (3, 96, 112)
    assert len(KINDS) == 10
