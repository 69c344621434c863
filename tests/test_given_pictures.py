"""Pictures as people hand them over in Python: what is taken, what is refused, what is left out."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import SMALL, make_model
from PIL import Image
from test_images import fill
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler

import sparsight
from sparsight.errors import ImagesError
from sparsight.images import left_out
from sparsight.stages.pictures import pictures_for

SIZE = (32, 48)
KNOWN = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.3)}


def small(channels=3, **cfg):
    """A small model of patches of 16 pixels that says its size and normalisation."""
    model = timm.create_model("vit_tiny_patch16_224", **SMALL | {"depth": 1, "in_chans": channels})
    model.pretrained_cfg = dict(KNOWN) | cfg
    model.patch_embed.img_size = SIZE
    return model.eval()


MODEL = small()
BYTES = np.random.default_rng(0).integers(0, 256, (4, *SIZE, 3), dtype=np.uint8)
PIL = [Image.fromarray(pixels) for pixels in BYTES]
MEAN, STD = (torch.tensor(KNOWN[name])[:, None, None] for name in ("mean", "std"))
TENSORS = [(torch.from_numpy(pixels).permute(2, 0, 1) / 255 - MEAN) / STD for pixels in BYTES]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(tensor, 3) for tensor in TENSORS])


def endless():
    while True:
        yield from TENSORS


TAKEN = {
    "tensors": TENSORS,
    "one tensor of all": torch.stack(TENSORS),
    "batches of one": [tensor[None] for tensor in TENSORS],
    "double": [tensor.double() for tensor in TENSORS],
    "arrays of floats": [tensor.numpy() for tensor in TENSORS],
    "pairs": [(tensor, 3) for tensor in TENSORS],
    "lists": [[tensor, 3, "name"] for tensor in TENSORS],
    **{f"dicts of {key}": [{key: t, "label": 3} for t in TENSORS]
       for key in ("pixel_values", "image", "img", "images")},
    "dicts of jpg": [{"jpg": picture, "cls": 3} for picture in PIL],
    "a batch in a dict": {"pixel_values": torch.stack(TENSORS)},
    "PIL": PIL,
    "bytes, channels last": list(BYTES),
    "bytes, channels first": [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in BYTES],
    "one array of bytes": BYTES,
    "loader": DataLoader(TENSORS, batch_size=3),
    "loader of pairs": DataLoader([(tensor, 3) for tensor in TENSORS], batch_size=2, shuffle=True),
    "loader of dicts": DataLoader([{"image": tensor} for tensor in TENSORS], batch_size=2),
    "loader without batches": DataLoader(TENSORS, batch_size=None),
    "loader of lists": DataLoader([(p, 3) for p in PIL], batch_size=2, collate_fn=list),
    "loader of a stream": DataLoader(Stream(), batch_size=3),
    "stream": Stream(),
    "batches": list(DataLoader([(tensor, 3) for tensor in TENSORS], batch_size=3)),
    "generator": (tensor for tensor in TENSORS),
    "map": map(torch.clone, TENSORS),
}  # fmt: skip


@pytest.mark.parametrize("form", TAKEN)
def test_what_has_a_clear_meaning_becomes_normalised_tensors(form):
    found = pictures_for(MODEL, TAKEN[form], 8)
    assert len(found) == 4
    for place in range(4):
        torch.testing.assert_close(found[place], TENSORS[place], atol=1e-5, rtol=0)


def test_folders_and_paths_are_brought_to_the_models_own_size(tmp_path):
    folder = fill(tmp_path / "a", 3, size=(70, 50))
    wanted = (torch.full((3, *SIZE), 40 / 255) - MEAN) / STD
    paths = sorted(folder.iterdir())
    raw = [{"image": {"bytes": path.read_bytes(), "path": None}} for path in paths]
    for given in (str(folder), folder, paths, list(map(str, paths)), raw):
        found = pictures_for(MODEL, given, 8)
        assert len(found) == 3
        torch.testing.assert_close(found[2], wanted, atol=1e-5, rtol=0)
    assert pictures_for(MODEL, folder, 8, size=(64, 64))[0].shape == (3, 64, 64)


def refusal(given, model=MODEL):
    with pytest.raises(ImagesError) as caught:
        pictures_for(model, given, 8)
    said = str(caught.value)
    assert len(said) <= 300
    return said


REFUSED = {
    "pixel values": ([255 * tensor.abs() for tensor in TENSORS], "which are not normalised"),
    "0 to 1": ([torch.from_numpy(p).permute(2, 0, 1) / 255 for p in BYTES], "0 to 1, which are not"),
    "channels last": ([tensor.permute(1, 2, 0) for tensor in TENSORS], "channels last"),
    "batches of batches": ([torch.stack(TENSORS)[None]] * 2, "several pictures"),
    "five dimensions": (torch.stack(TENSORS)[None], "no set of pictures"),
    "NaN": ([tensor * float("nan") for tensor in TENSORS], "NaN or infinity"),
    "infinity": ([tensor / 0 for tensor in TENSORS], "NaN or infinity"),
    "four channels": ([torch.zeros(4, *SIZE)] * 2, r"(4, 32, 48): wanted is a normalised (3, h, w)"),
    "grey": ([torch.zeros(*SIZE)] * 2, "no picture with channels"),
    "integers": ([torch.zeros(3, *SIZE).long()] * 2, "int64"),
    "another patch": ([torch.zeros(3, 33, 48)] * 2, "33x48 is not a multiple"),
    "one picture": (TENSORS[0], "a single picture: put it in a list"),
    "one PIL picture": (PIL[0], "no set of pictures"),
    "other keys": ([{"x": TENSORS[0]}] * 2, "its keys are x"),
    "a dict of sets": ({"train": TENSORS}, "its keys are train"),
    "nothing": ([], "there is no image"),
    "an empty stream": (iter([]), "there is no image"),
    "a number": (5, "int is no set of pictures"),
    "numbers": ([1, 2], "of the type int"),
    "a model": (MODEL, "no set of pictures"),
    "no file": (["none.png"], "cannot read none.png: there is no such file"),
    "no folder": ("none", "there is no folder none"),
    "a stream that fails": ((1 / 0 for _ in range(3)), "ZeroDivisionError"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_clear_is_refused_in_a_sentence(case):
    given, says = REFUSED[case]
    assert says in refusal(given)


def test_bytes_need_a_normalisation_that_is_known():
    model = make_model("hf_vit")
    for given in (BYTES, PIL, "tests"):
        assert "pass sparsight.ImageFolder" in refusal(given, model)
    unknown = small()
    unknown.pretrained_cfg = {}
    assert "the model does not say how" in refusal(BYTES, unknown)
    assert len(pictures_for(unknown, [TENSORS[0] * 0 + torch.rand(3, *SIZE)], 8)) == 1  # cannot be told
    plain = small(mean=(0.0,) * 3, std=(1.0,) * 3)
    assert len(pictures_for(plain, [torch.rand(3, *SIZE)] * 4, 8)) == 4  # 0 to 1 is its normalisation
    wide = small(mean=(0.0,) * 3, std=(1 / 255,) * 3)
    assert len(pictures_for(wide, [255 * torch.rand(3, *SIZE)] * 4, 8)) == 4


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_taken_as_the_model_has_them(channels, tmp_path):
    model, own = small(channels), [torch.randn(channels, *SIZE) for _ in range(4)]
    folder = fill(tmp_path / "a", 2)
    few = {"max_images": 2}
    found = sparsight.optimize(model, own, sparsight.SVE(layers=(0,), min_tokens=0), **few)
    measured = sparsight.measure(model, found, own, [SIZE], repeats=1, **few)
    assert measured["fidelity"]["images"] == 2
    for given in (folder, sparsight.ImageFolder(folder, SIZE), BYTES, TENSORS):
        assert f"{channels}" in refusal(given, model)


def test_what_a_loader_leaves_out_stays_out_and_shuffling_changes_nothing():
    loader = DataLoader(TENSORS, sampler=SubsetRandomSampler([3, 1]))
    before = torch.random.get_rng_state()
    found = pictures_for(MODEL, loader, 8)
    assert torch.equal(before, torch.random.get_rng_state())
    assert [found[place].equal(TENSORS[n]) for place, n in enumerate((1, 3))] == [True, True]


def test_a_stream_is_read_within_the_limit_and_once():
    given = endless()
    assert len(pictures_for(MODEL, given, 6)) == 6
    assert next(given) is TENSORS[2]  # no picture was taken but those


class Bad(Dataset):
    """The first and the third fail, as files of a data set do."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index in (0, 2):
            raise RuntimeError(f"broken\nfile {index}")
        return TENSORS[index], 3


@pytest.mark.parametrize("wrap", [Bad, lambda: DataLoader(Bad(), batch_size=2)], ids=["set", "loader"])
def test_one_bad_picture_of_a_data_set_is_left_out(wrap):
    found = sparsight.analyze(MODEL, wrap())
    assert found.images == 2
    assert left_out(found.skipped) == "2: 2 the data set fails"
    assert "broken file 0" in found.skipped[0]


def test_later_pictures_that_do_not_fit_are_left_out_not_the_run():
    odd = [TENSORS[0], TENSORS[1] * float("nan"), torch.zeros(3, 33, 48), TENSORS[3]]
    found = sparsight.analyze(MODEL, odd)
    assert found.images == 2
    assert left_out(found.skipped).startswith("2: 1 NaN or infinity, 1 resolution 33x48")


VERBS = {
    "analyze": lambda model, given, out: sparsight.analyze(model, given),
    "optimize": lambda model, given, out: sparsight.optimize(model, given, out=out),
    "compare": lambda model, given, out: sparsight.compare(model, given),
    "search": lambda model, given, out: sparsight.search(
        model, given, sparsight.Budget(speedup=1.1), out
    ),
    "measure": lambda model, given, out: sparsight.measure(
        model, sparsight.Plan(methods=(sparsight.SVE(layers=(0,)),)), given, [SIZE]
    ),
    "adapt": lambda model, given, out: sparsight.adapt(
        model, sparsight.Plan(methods=(sparsight.SparseViT(),)), given
    ),
    "fit_relevance": lambda model, given, out: sparsight.fit_relevance(
        model, sparsight.Plan(methods=(sparsight.SPOT(),)), given
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_before_any_work(verb, tmp_path):
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folder, out = fill(tmp_path / "a", 2), tmp_path / "run"
    for given, says in ((sparsight.ImageFolder(folder, (30, 30)), "not a multiple"), (7, "no set of")):
        with pytest.raises(ImagesError, match=says):
            VERBS[verb](model, given, out)
    assert not Path(out).exists()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_verbs_take_a_loader(tmp_path):
    loader = DataLoader([(tensor, 1) for tensor in TENSORS], batch_size=2)
    plan = sparsight.optimize(MODEL, loader, sparsight.SVE(layers=(0,), min_tokens=0), tmp_path / "run")
    assert plan.recipe["calibration_images"] == 4
    assert plan.resolution == SIZE
    found = sparsight.compare(MODEL, loader, methods=["tome"], repeats=1, max_images=2)
    assert found["protocol"]["images"] == 2
    assert found["skipped"] == []


class NoLength(list):
    def __len__(self):
        return -1


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([tensor.to("meta") for tensor in TENSORS], "without values or sparse"),
        ([tensor.to_sparse() for tensor in TENSORS], "without values or sparse"),
        ([tensor[:, :0] for tensor in TENSORS], "not a multiple"),
        (NoLength(TENSORS), "have no length"),
    ],
    ids=["meta", "sparse", "no pixels", "negative length"],
)
def test_what_has_no_values_or_no_length_is_refused(given, reason):
    with pytest.raises(ImagesError, match=reason):
        pictures_for(MODEL, given, 4)


@pytest.mark.parametrize("std", [(0.5, 0.5), (0.5, 0.5, 0.0), ("a", "b", "c"), (None,) * 3, 0.5])
def test_a_model_whose_configuration_cannot_normalise_is_refused(std):
    with pytest.raises(ImagesError, match="do not normalise"):
        pictures_for(small(std=std), TENSORS, 4)
