"""Fine-tuning: it learns, by adapters alone, resumes, and other verbs take what it writes."""

import sys

import numpy as np
import pytest
import torch
from conftest import make_hf_sam2, make_model
from safetensors.torch import load_file
from task_data import salient_folder, save

import sparsight
from sparsight.families import family_of
from sparsight.models import load_model
from sparsight.stages import train as training
from sparsight.tasks.finetune import CHECKPOINT_FILE, FACTS_FILE, WEIGHTS_FILE

SIZE, RANK = (64, 96), 2


@pytest.fixture
def data(tmp_path):
    return salient_folder(tmp_path / "data", count=8)


def settings(**changes):
    return sparsight.Finetuning(**({"steps": 12, "rank": RANK, "learning_rate": 5e-3} | changes))


def blocks_keys(model):
    """State-dict keys of the matrices inside the blocks."""
    inside = {id(p) for block in family_of(model).blocks(model) for p in block.parameters()}
    return {key for key, p in model.named_parameters() if id(p) in inside and p.ndim == 2}


@pytest.mark.parametrize("name", ["augreg", "dinov3", "hf_dinov2", "hf_sam2"])
def test_it_learns_by_changes_of_low_rank_to_the_blocks_alone(name, data, tmp_path):
    model = make_hf_sam2() if name == "hf_sam2" else make_model(name)
    size = (128, 192) if name == "hf_sam2" else SIZE
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = sparsight.finetune(model, data, size, tmp_path / "out", settings())["losses"]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    # It starts from the probe that fits the features best; only other features take it lower.
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])

    written = load_file(tmp_path / "out" / WEIGHTS_FILE)
    assert written.keys() == before.keys()
    changed = {key for key, value in written.items() if not torch.equal(value, before[key])}
    assert changed
    assert changed <= blocks_keys(model)
    for key in changed:
        singular = torch.linalg.svdvals((written[key] - before[key]).double())
        # W + BA is rounded to float32, 2^-24 of W's entries; BA is smaller than W by far less.
        assert (singular[RANK:] < 1e-3 * singular[0]).all()


def test_an_interrupted_one_resumes_to_the_same_weights(data, tmp_path, monkeypatch):
    model = make_model("augreg")
    straight = sparsight.finetune(model, data, SIZE, tmp_path / "straight", settings())
    usual = training.schedule

    def interrupt_at_7(step, steps):
        if step == 7:
            raise KeyboardInterrupt
        return usual(step, steps)

    monkeypatch.setattr(training, "schedule", interrupt_at_7)
    with pytest.raises(KeyboardInterrupt):
        sparsight.finetune(model, data, SIZE, tmp_path / "resumed", settings())
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "resumed").iterdir()) == [CHECKPOINT_FILE]
    resumed = sparsight.finetune(model, data, SIZE, tmp_path / "resumed", settings())
    assert resumed["losses"] == straight["losses"]
    files = sorted(path.name for path in (tmp_path / "resumed").iterdir())
    assert files == sorted([FACTS_FILE, WEIGHTS_FILE])
    one, two = (load_file(tmp_path / run / WEIGHTS_FILE) for run in ("straight", "resumed"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_the_other_verbs_take_what_it_writes(data, tmp_path):
    source = "timm:vit_tiny_patch16_224"
    model = load_model(source, (64, 64)).model
    sparsight.finetune(model, data, (64, 64), tmp_path / "out", settings(steps=2))
    other = (96, 128)  # position embeddings are fitted to it
    loaded = load_model(source, other, checkpoint=tmp_path / "out" / WEIGHTS_FILE)
    assert not loaded.random_weights
    written = load_file(tmp_path / "out" / WEIGHTS_FILE)
    assert torch.equal(loaded.model.blocks[3].mlp.fc1.weight, written["blocks.3.mlp.fc1.weight"])
    assert not torch.equal(loaded.model.blocks[3].mlp.fc1.weight, model.blocks[3].mlp.fc1.weight)
    plan = sparsight.Plan(methods=(sparsight.SVE(layers=(4, 5), min_tokens=1),), resolution=other)
    found = sparsight.evaluate(loaded.model, plan, "salient", data)
    assert found["scores"][0]["metric"] == "IoU"


def test_the_encoder_may_be_a_module_of_a_larger_model(data, tmp_path):
    whole = torch.nn.ModuleDict({"tower": make_model("augreg"), "rest": torch.nn.Linear(3, 3)})
    sparsight.finetune(whole, data, SIZE, tmp_path / "out", settings(steps=2), module="tower")
    assert load_file(tmp_path / "out" / WEIGHTS_FILE).keys() == whole.state_dict().keys()


def test_what_does_not_fit_is_refused_and_nothing_is_overwritten(data, tmp_path, monkeypatch):
    out, model = tmp_path / "out", make_model("augreg")
    with pytest.raises(sparsight.ImagesError, match="not a multiple of the model's patch size"):
        sparsight.finetune(model, data, (65, 96), out)
    with pytest.raises(sparsight.LabelsError, match="neither im/ and gt/"):
        sparsight.finetune(model, tmp_path, SIZE, out)
    with pytest.raises(sparsight.SparsightError, match="a batch of 9 is more than the 4 pictures"):
        sparsight.finetune(model, data, SIZE, out, settings(batch=9))
    with pytest.raises(sparsight.SparsightError, match="no option 'probes'"):
        sparsight.finetune(model, data, SIZE, out, settings(), probes=9)
    for name, grey, says in (("empty", 0, "is empty"), ("full", 255, "nothing to tell apart")):
        masks = salient_folder(tmp_path / name, count=2)
        for path in (masks / "gt").iterdir():
            save(np.full((64, 96), grey), path)
        with pytest.raises(sparsight.LabelsError, match=says):
            sparsight.finetune(model, masks, SIZE, out, settings())
    sparse = sparsight.apply(make_model("augreg"), sparsight.SVE(layers=(2, 3)))
    with pytest.raises(sparsight.PlanError, match="starts from the dense model"):
        sparsight.finetune(sparse, data, SIZE, out)
    assert not out.exists()
    out.mkdir()
    (out / WEIGHTS_FILE).write_bytes(b"somebody's only copy")
    with pytest.raises(sparsight.SparsightError, match=r"already has a model\.safetensors"):
        sparsight.finetune(model, data, SIZE, out)
    assert (out / WEIGHTS_FILE).read_bytes() == b"somebody's only copy"
    (out / WEIGHTS_FILE).unlink()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(sparsight.SparsightError, match=r"pip install 'sparsight\[finetune\]'"):
        sparsight.finetune(model, data, SIZE, out)
