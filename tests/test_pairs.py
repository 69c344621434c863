"""Which files belong together: customs of naming, layouts of data sets, and what lies beside."""

import os
import unicodedata

import numpy as np
import pytest
from task_data import class_folder, save

from sparsight.errors import ImagesError, LabelsError
from sparsight.tasks import layouts
from sparsight.tasks.base import Request
from sparsight.tasks.classification import run as classify
from sparsight.tasks.overlap import overlap
from sparsight.tasks.pairs import listed, match


def touch(*paths):
    """Files of which only the names count."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(path.name))


def names(pairs):
    return [(pair.image.name, pair.labels.name) for pair in pairs]


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        ("x.jpg", "x.png"), ("x.jpg", "x_mask.gif"), ("x.JPG", "x-mask.PNG"), ("x.png", "x_L.png"),
        ("x.png", "x_gt.png"), ("x.png", "x_GT.png"), ("x.png", "x_label.png"),
        ("x.png", "x_labelIds.png"), ("x.png", "x_labelTrainIds.png"),
        ("x_leftImg8bit.png", "x_gtFine_labelIds.png"),
        ("x_sat.jpg", "x_mask.png"), ("x.y.jpg", "x.y_mask.png"), ("a/x.jpg", "a/x_mask.png"),
    ],
)  # fmt: skip
def test_labels_are_paired_by_the_customs_of_naming_them(tmp_path, picture, label):
    for first in ("x", "x2"):
        touch(tmp_path / "images" / picture.replace("x", first, 1),
              tmp_path / "labels" / label.replace("x", first, 1))  # fmt: skip
    found = match(tmp_path / "images", tmp_path / "labels")
    assert len(found) == 2
    assert all(str(p.labels).replace("x2", "x").endswith(label) for p in found)
    assert [("x2" in p.image.name, "x2" in p.labels.name) for p in found] == [(False,) * 2, (True,) * 2]


def test_the_plain_name_is_preferred_and_further_labels_of_a_picture_are_passed_over(tmp_path):
    touch(*(tmp_path / "images" / name for name in ("a.png", "b.png")))
    touch(
        *(tmp_path / "labels" / f"{name}{end}.png" for name in "ab" for end in ("", "_mask", "_color"))
    )
    touch(tmp_path / "labels" / "classes.txt", tmp_path / "labels" / "a.json")
    assert names(match(tmp_path / "images", tmp_path / "labels")) == [("a.png",) * 2, ("b.png",) * 2]


def test_two_kinds_of_labels_are_refused(tmp_path):
    touch(tmp_path / "images" / "a.png")
    touch(*(tmp_path / "labels" / f"a_{kind}.png" for kind in ("labelIds", "labelTrainIds")))
    with pytest.raises(LabelsError, match=r"a_labelIds\.png and .*a_labelTrainIds\.png are both labels"):
        match(tmp_path / "images", tmp_path / "labels")


def test_what_is_there_in_place_of_labels_is_named(tmp_path):
    touch(tmp_path / "images" / "a.png", tmp_path / "labels" / "a_mask.mat")
    with pytest.raises(LabelsError, match=r"a\.png has no labels: .*only a_mask\.mat"):
        match(tmp_path / "images", tmp_path / "labels")
    touch(tmp_path / "images" / "b.png", tmp_path / "labels" / "b_mask.png")
    with pytest.raises(LabelsError, match=r"a\.png has no labels: there is no .*a_mask\.\*"):
        match(tmp_path / "images", tmp_path / "labels")


NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("one", "two"), [(NFC, NFD), (NFD, NFC)])
def test_names_pair_in_either_form_of_unicode(tmp_path, one, two):
    touch(tmp_path / "images" / f"{one}.jpg", tmp_path / "labels" / f"{two}_mask.png")
    assert len(match(tmp_path / "images", tmp_path / "labels")) == 1
    touch(tmp_path / "plain" / f"{two}.png")
    (tmp_path / "list.txt").write_text(f"\ufeff{two}\r\n\r\n{two}\r\n", encoding="utf-8")
    assert len(listed(tmp_path / "list.txt", tmp_path / "images", tmp_path / "plain")) == 1
    for split, name in (("train", one), ("val", two)):
        touch(tmp_path / split / name / "0.png", tmp_path / split / "other" / "0.png")
    train, val = (layouts.class_folders(tmp_path / split) for split in ("train", "val"))
    assert train.keys() == val.keys()


def test_a_name_that_is_no_unicode_pairs(tmp_path):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    touch(tmp_path / "images" / f"{name}.jpg", tmp_path / "labels" / f"{name}.png")
    assert len(match(tmp_path / "images", tmp_path / "labels")) == 1


def junk(folder):
    """What notebooks and macOS leave behind."""
    touch(folder / "._a.png", folder / ".DS_Store", folder / ".ipynb_checkpoints" / "a-checkpoint.png",
          folder / "__MACOSX" / "a.png", folder / "Thumbs.db")  # fmt: skip


def test_hidden_files_and_folders_are_passed_over_everywhere(tmp_path):
    for folder in ("im", "gt"):
        touch(tmp_path / folder / "a.png", tmp_path / folder / "b.png")
        junk(tmp_path / folder)
    assert len(layouts.mask_pairs(tmp_path)) == 2
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            touch(tmp_path / split / name / "a.png")
            junk(tmp_path / split / name)
        junk(tmp_path / split)
        (tmp_path / split / ".empty").mkdir()
        found = layouts.class_folders(tmp_path / split)
        assert {name: len(files) for name, files in found.items()} == {"cat": 1, "dog": 1}


def test_a_data_folder_inside_a_hidden_one_is_read(tmp_path):
    touch(tmp_path / ".cache" / "im" / "a.png", tmp_path / ".cache" / "gt" / "a.png")
    assert len(layouts.mask_pairs(tmp_path / ".cache")) == 1


def test_cityscapes_as_it_comes(tmp_path):
    for split in ("train", "val"):
        for city in ("aachen", "bonn"):
            base = f"{city}_000000_000019"
            touch(tmp_path / "leftImg8bit" / split / city / f"{base}_leftImg8bit.png")
            touch(*(tmp_path / "gtFine" / split / city / f"{base}_gtFine_{kind}" for kind in (
                "labelIds.png", "color.png", "instanceIds.png", "polygons.json")))  # fmt: skip
    name, layout = layouts.segmentation(tmp_path, None)
    pairs = layout.pairs(tmp_path, "train")
    assert name == "cityscapes"
    assert {p.labels.name for p in pairs} == {
        f"{city}_000000_000019_gtFine_labelIds.png" for city in ("aachen", "bonn")
    }
    assert layout.table(pairs) is layouts.CITYSCAPES_IDS
    for path in list((tmp_path / "gtFine" / "train").rglob("*labelIds.png")):
        touch(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    trained = layout.pairs(tmp_path, "train")
    assert all(p.labels.name.endswith("_labelTrainIds.png") for p in trained)
    assert layout.table(trained) is None


def test_carvana_as_it_comes(tmp_path):
    for number in range(3):
        touch(tmp_path / "imgs" / f"{number}.jpg", tmp_path / "masks" / f"{number}_mask.gif")
    assert names(layouts.mask_pairs(tmp_path))[0] == ("0.jpg", "0_mask.gif")


def test_a_folder_that_is_missing_is_named(tmp_path):
    touch(tmp_path / "train" / "images" / "a.png")
    with pytest.raises(LabelsError, match=r"no folder .*train/labels, which the layout camvid has"):
        layouts.segmentation(tmp_path, None)
    touch(tmp_path / "train" / "labels" / "a.png")
    name, layout = layouts.segmentation(tmp_path, None)
    assert name == "camvid"
    with pytest.raises(LabelsError, match=r"no folder .*val/images"):
        layout.pairs(tmp_path, layout.val)
    with pytest.raises(LabelsError, match=r"no folder .*val: wanted train/CLASS"):
        layouts.class_folders(tmp_path / "val")
    with pytest.raises(LabelsError, match="none of the layouts") as caught:
        layouts.segmentation(tmp_path / "nowhere", None)
    assert len(str(caught.value).replace(str(tmp_path), "")) <= 400


def test_lists_say_what_is_wrong(tmp_path):
    touch(tmp_path / "images" / "a.jpg", tmp_path / "labels" / "a.png", tmp_path / "empty.txt")
    with pytest.raises(LabelsError, match=r"cannot read .*none\.txt"):
        listed(tmp_path / "none.txt", tmp_path / "images", tmp_path / "labels")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ImagesError, match="names no picture"):
        listed(tmp_path / "empty.txt", tmp_path / "images", tmp_path / "labels")
    (tmp_path / "long.txt").write_text("a\na b\n")
    with pytest.raises(LabelsError, match="names a b, and there is no"):
        listed(tmp_path / "long.txt", tmp_path / "images", tmp_path / "labels")


def test_pictures_of_both_splits_are_told_by_their_bytes(tmp_path):
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"longer"), ("d", b"one")):
        (tmp_path / name).write_bytes(content)
    a, b, c, d = (tmp_path / name for name in "abcd")
    assert overlap([a, c], [b]) == []
    assert overlap([a, c], [b, d]) == [
        "1 of the 2 pictures judged are also among those to learn from, the first: d"
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"val/Red": "val/red"}, "'Red', and train/ has no such folder, only 'red': give both one name"),
        ({"val/mauve": "val/red"}, "'mauve', and train/ has no such folder$"),
    ],
)
def test_classes_of_other_names_are_refused(tmp_path, change, says):
    class_folder(tmp_path, 1, 1)
    for new, old in change.items():
        (tmp_path / old).rename(tmp_path / new)
    with pytest.raises(LabelsError, match=says):
        classify(None, Request(tmp_path, (48, 48)))


def test_one_class_alone_is_refused_before_any_work(tmp_path):
    for split in ("train", "val"):
        save(np.zeros((8, 8, 3)), tmp_path / split / "cat" / "0.png")
    with pytest.raises(LabelsError, match="one class alone, 'cat'"):
        classify(None, Request(tmp_path, (48, 48)))
    for split in ("train", "val"):
        (tmp_path / split / "dog").mkdir()
    with pytest.raises(LabelsError, match="pictures of one class alone"):
        classify(None, Request(tmp_path, (48, 48)))
