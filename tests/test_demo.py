"""The embedded encoder is what its facts say, and the demo runs on it."""

from pathlib import Path

import pytest
import torch

import sparsight
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures, SceneSamples, evaluate
from sparsight.demo.run import packaged_plan, run_demo
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
    scenes = SceneSet(6, (1024, 1024), recorded["first_seed"])
    row = evaluate({"dense": Arm(model)}, SceneSamples(scenes))["dense"]
    # Six scenes hold some 60 objects, so a kind may be seen three times; single mistakes weigh 0.03.
    assert row["miou"] == pytest.approx(recorded["scores"]["1024x1024"]["miou"], abs=0.15)
    assert row["relative_error"] == row["miou_low"] == row["miou_high"] == 0


def test_an_untrained_encoder_scores_next_to_nothing():
    row = evaluate({"dense": Arm(encoder.build().eval())}, SceneSamples(SceneSet(2, (256, 256), 5)))
    assert row["dense"]["miou"] < 0.1


def test_the_packaged_plan_fits_the_encoder(model):
    plan = packaged_plan()
    assert all(value.dtype == torch.float32 for value in plan.weights.values())
    sparsight.apply(model, plan)
    sparsight.restore(model)


def test_demo_runs_and_says_everything(tmp_path):
    said = []
    result = run_demo(tmp_path, (512, 512), scenes=2, repeats=1, full=False, say=said.append)
    assert len(said) == 4
    names = [row["name"] for row in result["rows"]]
    assert names[0] == "dense"
    assert {
        "sve-undistilled", "sve-distilled", "sve-linear", "sve-reuse", "sve-sampled",
    } <= set(names)  # fmt: skip
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
    assert sparsight.load(tmp_path) == packaged_plan()


def test_demo_refuses_a_resolution_that_does_not_fit(tmp_path):
    with pytest.raises(sparsight.ImagesError, match="nearest that is: 992x992"):
        run_demo(tmp_path / "run", (1000, 1000), 1, 1, False, print)
    assert not (tmp_path / "run").exists()


def test_calibration_sees_pictures_without_labels():
    pictures = ScenePictures(SceneSet(2, (96, 112), 3))
    assert len(pictures) == 2
    assert pictures[1].shape == (3, 96, 112)
    assert len(KINDS) == 10
