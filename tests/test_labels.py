"""Pictures with labels: layouts found, bad input refused in a sentence that names the file."""

import numpy as np
import pytest
import torch
from PIL import Image
from task_data import save, segmentation_folder

from sparsight.errors import ImagesError, LabelsError
from sparsight.tasks import layouts
from sparsight.tasks.base import Request
from sparsight.tasks.labels import VOID, LabelledFiles, class_numbers, object_mask, objects


def samples(folder, read, size=(32, 32)):
    return LabelledFiles(
        layouts.match(folder / "images", folder / "labels"), Request(folder, size), read
    )


def pair(folder, labels, picture=None, camera=None, **options):
    """One picture with its labels, in images/ and labels/."""
    labels = np.asarray(labels)
    save(np.zeros((*labels.shape[:2], 3)) if picture is None else picture, folder / "images" / "a.jpg",
         **({"exif": camera} if camera else {}), quality=100)  # fmt: skip
    path = folder / "labels" / "a.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path, **options)
    return folder


def turned(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_labels_keep_their_size_and_void_is_one_number(tmp_path):
    labels = np.array([[0, 1, 2], [255, 2, 1]], np.uint8)
    read = samples(pair(tmp_path, labels), class_numbers(3, void=255))[0]
    assert read.picture.shape == (3, 32, 32)
    assert read.labels.tolist() == [[0, 1, 2], [VOID, 2, 1]]


def test_sixteen_bit_and_palette_labels_are_numbers(tmp_path):
    wide = pair(tmp_path / "wide", np.array([[300, 7]], np.uint16))
    assert samples(wide, class_numbers(301, 7))[0].labels.tolist() == [[300, VOID]]
    palette = Image.fromarray(np.array([[2, 0]], np.uint8), "P")
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    pair(tmp_path / "p", np.array([[0, 0]], np.uint8))
    palette.save(tmp_path / "p" / "labels" / "a.png")
    assert samples(tmp_path / "p", class_numbers(3, 255))[0].labels.tolist() == [[2, 0]]


def test_labels_out_of_range_name_file_and_value(tmp_path):
    folder = pair(tmp_path, np.array([[0, 1], [7, 1]], np.uint8))
    with pytest.raises(LabelsError, match=r"a\.png has the label 7, .* 0 to 2 nor the void label 255"):
        samples(folder, class_numbers(3, 255))[0]


def test_labels_in_colour_are_refused(tmp_path):
    folder = pair(tmp_path, np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(LabelsError, match="in colour"):
        samples(folder, class_numbers(3, 255))[0]


def test_labels_of_another_size_are_refused(tmp_path):
    folder = pair(tmp_path, np.zeros((4, 6), np.uint8), picture=np.zeros((4, 5, 3)))
    with pytest.raises(LabelsError, match="is 6 x 4 pixels and its picture 5 x 4"):
        samples(folder, class_numbers(3, 255))[0]


def test_unreadable_labels_count_as_an_unreadable_picture(tmp_path):
    folder = pair(tmp_path, np.zeros((4, 6), np.uint8))
    (folder / "labels" / "a.png").write_bytes(b"broken")
    with pytest.raises(ImagesError, match="cannot read"):
        samples(folder, class_numbers(3, 255))[0]


@pytest.mark.parametrize("drawn", ["as stored", "upright", "with the mark"])
def test_labels_turn_with_their_picture(tmp_path, drawn):
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:, 16:] = 255  # orientation 6: shown, the white half is below
    upright = np.zeros((32, 16), np.uint8)
    upright[16:] = 1
    labels = upright if drawn == "upright" else (stored[:, :, 0] > 0).astype(np.uint8)
    options = {"exif": turned(6)} if drawn == "with the mark" else {}
    folder = pair(tmp_path, labels, stored, turned(6), **options)
    read = samples(folder, class_numbers(2, 255), (32, 16))[0]
    assert read.labels.tolist() == upright.tolist()
    white = read.picture[0] > 0
    assert torch.equal(white[:14], torch.zeros(14, 16, dtype=torch.bool))
    assert torch.equal(white[18:], torch.ones(14, 16, dtype=torch.bool))


@pytest.mark.parametrize(("turn", "shape"), [(3, (4, 6)), (6, (5, 5))])
def test_turned_pictures_whose_labels_do_not_tell_are_refused(tmp_path, turn, shape):
    folder = pair(tmp_path, np.zeros(shape, np.uint8), camera=turned(turn))
    with pytest.raises(LabelsError, match=f"orientation {turn}.*save the picture upright"):
        samples(folder, class_numbers(3, 255))[0]


def test_masks_of_every_kind():
    grey = Image.fromarray(np.array([[0, 100, 200, 255]], np.uint8))
    assert object_mask(None, grey).tolist() == [[0, 0, 1, 1]]
    ones = Image.fromarray(np.array([[0, 1, 1, 0]], np.uint8))
    assert object_mask(None, ones).tolist() == [[0, 1, 1, 0]]
    assert object_mask(None, grey.convert("RGBA")).tolist() == [[0, 0, 1, 1]]
    wide = Image.fromarray(np.array([[0, 30000, 60000]], np.uint16))
    assert object_mask(None, wide).tolist() == [[0, 0, 1]]
    black = Image.fromarray(np.zeros((1, 3), np.uint8))
    assert object_mask(None, black).tolist() == [[0, 0, 0]]
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    assert objects(None, palette).tolist() == [[0, 1, 2]]
    assert object_mask(None, palette).tolist() == [[0, 1, 1]]


def test_a_folder_that_does_not_match_names_the_first(tmp_path):
    folder = segmentation_folder(tmp_path / "a") / "train"
    (folder / "labels" / "3.png").unlink()
    (folder / "labels" / "5.png").unlink()
    with pytest.raises(LabelsError, match=r"images/3\.png has no labels"):
        layouts.match(folder / "images", folder / "labels")
    folder = segmentation_folder(tmp_path / "b") / "train"
    (folder / "images" / "2.png").unlink()
    with pytest.raises(LabelsError, match=r"labels/2\.png has no picture"):
        layouts.match(folder / "images", folder / "labels")
    (folder / "images" / "2.jpg").write_bytes(b"")
    (folder / "images" / "2.png").write_bytes(b"")
    with pytest.raises(LabelsError, match="which of them is meant"):
        layouts.match(folder / "images", folder / "labels")
    with pytest.raises(LabelsError, match="there is no folder"):
        layouts.match(folder / "images", folder / "masks")


def test_the_layouts_are_told_by_their_folders(tmp_path):
    for split in ("training", "validation"):
        save(np.zeros((2, 2, 3)), tmp_path / "ade" / "images" / split / "x.jpg")
        save(np.zeros((2, 2)), tmp_path / "ade" / "annotations" / split / "x.png")
    name, layout = layouts.segmentation(tmp_path / "ade", None)
    assert (name, layout.classes, layout.void) == ("ade20k", 151, 0)
    assert [p.image.name for p in layout.pairs(tmp_path / "ade", layout.val)] == ["x.jpg"]

    voc = tmp_path / "voc"
    for number in range(3):
        save(np.zeros((2, 2, 3)), voc / "JPEGImages" / f"{number}.jpg")
        save(np.zeros((2, 2)), voc / "SegmentationClass" / f"{number}.png")
    lists = voc / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n2\n")
    (lists / "val.txt").write_text("1\n9\n")
    name, layout = layouts.segmentation(voc, None)
    assert (name, layout.classes, layout.void) == ("voc", 21, 255)
    assert [p.image.stem for p in layout.pairs(voc, "train")] == ["0", "2"]
    with pytest.raises(LabelsError, match=r"names 9, and there is no .*9\.jpg"):
        layout.pairs(voc, "val")

    assert layouts.segmentation(segmentation_folder(tmp_path / "camvid"), None)[0] == "camvid"
    with pytest.raises(LabelsError, match="none of the layouts"):
        layouts.segmentation(tmp_path, None)
    with pytest.raises(LabelsError, match="JPEGImages"):
        layouts.segmentation(tmp_path / "ade", "voc")
