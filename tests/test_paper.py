"""The paper's tables as commands: the configs fit the libraries, and every step runs on small models."""

import pytest
import timm
import torch
from benchmarks.paper import config, judge, speed
from safetensors.torch import save_model
from task_data import salient_folder, segmentation_folder

from sparsight.demo import encoder as embedded


def test_every_config_names_a_model_of_timm_and_its_pretrained_tag():
    for name in config.NAMES:
        for encoder in config.read(name):
            assert timm.is_model_pretrained(encoder.model.removeprefix("timm:")), encoder.model
            assert encoder.paper or encoder.ablation or encoder.analyze
    stated = {e.name: e.paper for e in config.read("table1")}
    assert (stated["CLIP-L"].tflop, stated["CLIP-L"].tflop_sve) == (5.8, 4.6)


def test_what_is_missing_is_named(tmp_path):
    encoder = config.read("table1")[0]
    found = encoder.missing(tmp_path, tmp_path / "ade20k", tmp_path)
    assert found == [str(tmp_path / encoder.weights), str(tmp_path / "ade20k")]


def test_speed_counts_what_is_saved():
    small = config.Encoder(
        name="small", model="timm:vit_tiny_patch16_224", weights="", resolution=528, layers=(8, 11)
    )
    row = speed.measured(small, torch.device("cpu"), repeats=1)
    # Four of twelve layers; of N = 33 * 33 + 1 tokens, 128 (a multiple of 64) are kept, and the prefix.
    n, kept, dim = 1090, 129, 192
    saved = 4 * 4 * dim * (n * n - 2 * kept * n) / 1e12
    assert row["dense"]["tflop"] - row["sve"]["tflop"] == pytest.approx(saved, rel=0.01)
    assert row["saved"] == pytest.approx(saved / row["dense"]["tflop"], rel=0.01)
    assert row["speedup"] > 0


@pytest.fixture
def selected(monkeypatch):
    """Layers for pictures so small that no token stands out by a factor of ten."""
    monkeypatch.setattr("sparsight.stages.select.by_indicator", lambda found, threshold: (5, 6))


def small_encoder(config, tmp_path, **changes):
    """The embedded encoder as a checkpoint in a folder of weights."""
    save_model(embedded.load(), str(tmp_path / "demo.safetensors"))
    settings = {"name": "small", "model": "demo", "weights": "demo.safetensors", "resolution": 96}
    return config.Encoder(**(settings | changes))


@pytest.mark.usefixtures("selected")
def test_a_fine_tuned_row_is_judged_from_calibration_to_score(tmp_path):
    salient_folder(tmp_path / "objects")
    row = config.TaskRow(task="salient", data="objects", images="objects/im", score="IoU", sve=50)
    encoder = small_encoder(config, tmp_path, finetune="objects")
    found = judge.judged(encoder, row, tmp_path, tmp_path, tmp_path / "out", {"steps": 2})
    assert (tmp_path / "out" / "finetuned" / "model.safetensors").exists()
    assert 0 <= found["sve"]["sparse"] <= 1
    again = judge.judged(encoder, row, tmp_path, tmp_path, tmp_path / "out", {"steps": 2})
    assert again["sve"] == found["sve"]


@pytest.mark.usefixtures("selected")
def test_the_ablation_has_each_half_without_the_other(tmp_path):
    segmentation_folder(tmp_path / "colours")
    row = config.TaskRow(
        task="segmentation", data="colours", images="colours/train/images", score="mIoU", sve=50
    )
    stated = {"dense": 1, "sparse": 2, "dense_distilled": 3, "sparse_distilled": 4}
    encoder = small_encoder(config, tmp_path, score="exact", ablation=stated)
    found = judge.judged(encoder, row, tmp_path, tmp_path, tmp_path / "out", {"steps": 2})
    arms = ("sparse", "dense_distilled", "sparse_distilled")
    assert len({found[arm]["dense"] for arm in arms}) == 1
    assert all(0 <= found[arm]["sparse"] <= 1 for arm in arms)


def test_a_figure_has_the_projector_of_its_layer(tmp_path):
    salient_folder(tmp_path / "objects", count=3)
    encoder = small_encoder(config, tmp_path, analyze="objects/im", projector=7)
    found = judge.analyzed(encoder, tmp_path, tmp_path / "objects" / "im")
    assert ["linear" in layer["recall"] for layer in found["layers"]] == [n == 7 for n in range(12)]
