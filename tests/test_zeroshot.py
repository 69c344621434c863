"""Zero-shot classification: names, figures by hand, and a small random CLIP."""

import copy
import unicodedata
from types import SimpleNamespace

import pytest
import torch
from conftest import make_model
from task_data import class_folder

import sparsight
from sparsight.errors import LabelsError, SparsightError, UnsupportedModelError
from sparsight.tasks import classification, zeroshot
from sparsight.tasks.base import Arms, Request

NAMES = "a blue thing\na green thing\na red thing\n"  # in the order of the folders


@pytest.fixture
def request_for(tmp_path):
    """A request on pictures of three colours, with class names."""
    class_folder(tmp_path / "data")
    (tmp_path / "names.txt").write_text(NAMES)

    def make(names="names.txt", tokenizer=tokenize):
        return Request(tmp_path / "data", (32, 32), names=tmp_path / names, tokenizer=tokenizer)

    return make


def tokenize(texts, padding, truncation, max_length, return_tensors):
    """A tokenizer of three words: blue, green and red are 1, 2 and 3, the end is 9."""
    ids = torch.zeros(len(texts), max_length, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        assert text.startswith("a photo of a ")
        row[0] = [w in text for w in ("blue", "green", "red")].index(True) + 1
        row[-1] = 9
    return {"input_ids": ids}


class Colours(torch.nn.Module):
    """Stands in for CLIP: a picture's features are its mean colour, a text's its colour."""

    def __init__(self, order=(0, 1, 2)):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(3)[list(order)])
        self.config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=4))

    def get_text_features(self, input_ids):
        return torch.eye(3)[3 - input_ids[:, 0]]  # word 3 is red, the first channel

    def get_image_features(self, pixel_values, interpolate_pos_encoding):
        return pixel_values.mean((2, 3)) @ self.weight


def test_answers_by_hand(request_for):
    dense, sparse = Colours(), Colours((1, 0, 2))  # the second takes red for green and green for red
    with torch.no_grad():
        found = classification.run(Arms(dense, sparse, (dense, sparse)), request_for())
    row = found.scores[0]
    assert row["metric"] == "zero-shot top-1"
    assert row["dense"] == 1
    assert row["sparse"] == pytest.approx(1 / 3)
    assert found.images == 12
    assert all("green" in w["image"] or "red" in w["image"] for w in found.worst)
    assert found.shares == {"val": dict.fromkeys(("blue", "green", "red"), pytest.approx(1 / 3))}
    assert found.notes == []


def test_one_answer_for_all_pictures_is_noted(request_for):
    dense, sparse = Colours(), Colours()
    sparse.weight.data = torch.zeros(3, 3)
    with torch.no_grad():
        found = zeroshot.run(Arms(dense, sparse, (dense, sparse)), request_for())
    assert found.notes == ["the sparse arm answers 'blue' for every picture (zero-shot)"]


def test_a_small_clip_runs_and_equals_itself(request_for):
    transformers = pytest.importorskip("transformers")
    small = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = transformers.CLIPConfig(
        text_config=small | {"vocab_size": 10, "max_position_embeddings": 8, "eos_token_id": 9},
        vision_config=small | {"image_size": 16, "patch_size": 8}, projection_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        found = zeroshot.run(Arms(model, other, (model, other)), request_for())
        texts = zeroshot.text_features(model, tokenize, ["blue", "green", "red"])
    assert (found.scores[0]["difference"], found.scores[0]["low"]) == (0, 0)
    assert 0 <= found.scores[0]["dense"] <= 1
    assert texts.shape == (3, 16)
    assert torch.allclose(texts.norm(dim=1), torch.ones(3))
    assert (texts @ texts.T)[0, 1] < 0.9999  # the names are told apart


def test_names_by_folder_or_by_order(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("n02\ta dog\n\nn01\ta cat\nn03\tunused\n")
    assert zeroshot.class_names(file, ["n01", "n02"]) == {"n01": "a cat", "n02": "a dog"}
    with pytest.raises(LabelsError, match="no name for the class 'n04'"):
        zeroshot.class_names(file, ["n01", "n04"])
    file.write_text("cat\ndog\n")
    assert zeroshot.class_names(file, ["n01", "n02"]) == {"n01": "cat", "n02": "dog"}
    with pytest.raises(LabelsError, match="2 class names for 3 folders"):
        zeroshot.class_names(file, ["n01", "n02", "n03"])
    file.write_text("n01\tcat\ndog\n")
    with pytest.raises(LabelsError, match="a tab and lines without, as 'dog'"):
        zeroshot.class_names(file, ["n01", "n02"])
    file.write_text("n01\tcat\nn01\tdog\n")
    with pytest.raises(LabelsError, match="two names for the class 'n01'"):
        zeroshot.class_names(file, ["n01"])
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    file.write_text(f"\ufeff{apart}\ta bar\r\n\r\n", encoding="utf-8")
    assert zeroshot.class_names(file, [composed]) == {composed: "a bar"}
    with pytest.raises(LabelsError, match="cannot read the class names"):
        zeroshot.class_names(tmp_path / "none", ["n01"])


def test_what_lacks_a_text_tower_or_tokenizer_is_refused(request_for, tmp_path):
    model = Colours()
    with pytest.raises(SparsightError, match="needs the tokenizer"):
        zeroshot.run(Arms(model, model, (model, model)), request_for(tokenizer=None))
    assert zeroshot.tokenizer_in(str(tmp_path)) is None
    asked = request_for()
    with pytest.raises(UnsupportedModelError, match="VisionTransformer has no text tower"):
        sparsight.evaluate(
            make_model("augreg"), sparsight.SVE(layers="all", min_tokens=0), "classification",
            asked.data, asked.resolution, names=asked.names, tokenizer=tokenize,
        )  # fmt: skip
