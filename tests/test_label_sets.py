"""Labels of a whole set: what they hold is told, and what is none of the classes is refused before work.

`run(None, ...)` has no model, so whatever is refused here is refused before any is used.
"""

import json

import numpy as np
import pytest
from PIL import Image
from task_data import save

from sparsight.errors import ImagesError, LabelsError
from sparsight.tasks import layouts, mask_survey, prompted, salient, segmentation, suspicion
from sparsight.tasks.base import Request
from sparsight.tasks.layouts import CITYSCAPES_IDS
from sparsight.tasks.table import VOID, read_table

SIZE = (32, 48)
LONGEST = 300  # characters of a sentence, without the folder's own path


def disc(inside=1, outside=0, kind=np.uint8):
    """A label map (32, 48) with a block of another number."""
    labels = np.full(SIZE, outside, kind)
    labels[8:24, 12:36] = inside
    return labels


def write(labels, path):
    """As PNG, or as TIFF where PNG has no such numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = labels if isinstance(labels, Image.Image) else Image.fromarray(labels)
    image.save(path.with_suffix(".tif") if image.mode in ("F", "I") else path)


def camvid(folder, *maps, **options):
    """CamVid's layout with these label maps in both splits."""
    for split in ("train", "val"):
        for number, labels in enumerate(maps):
            picture = np.full((*SIZE, 3), 10 * number + len(split))
            save(picture, folder / split / "images" / f"{number}.png")
            write(labels, folder / split / "labels" / f"{number}.png")
    return Request(folder, SIZE, **options)


def masks(folder, *maps, **options):
    """im/ and gt/ with these masks, each once to learn from and once to judge by."""
    for number, mask in enumerate(mask for mask in maps for _ in range(2)):
        save(np.full((*mask.shape[:2], 3), number), folder / "im" / f"{number:02}.png")
        write(mask, folder / "gt" / f"{number:02}.png")
    return Request(folder, SIZE, **options)


def refused(run, request, says):
    with pytest.raises(LabelsError, match=says) as caught:
        run(None, request)
    told = str(caught.value).replace(str(request.data), "")
    assert "\n" not in told
    assert len(told) <= LONGEST, told


def ramp(low, high):
    """What a resize with interpolation makes of two classes: every number between on the way."""
    labels = disc(high, low)
    return np.asarray(Image.fromarray(labels).resize((192, 128), 2).resize((48, 32), 3))


def test_own_labels_in_the_folders_of_a_set_whose_void_is_their_class(tmp_path):
    for split in ("training", "validation"):
        for number in range(2):
            save(np.zeros((*SIZE, 3)), tmp_path / "images" / split / f"{number}.png")
            save(disc(), tmp_path / "annotations" / split / f"{number}.png")
    refused(
        segmentation.run, Request(tmp_path, SIZE), r"only class 1 .* 75 % .*void \(label 0\).*--void"
    )
    found = segmentation.surveyed(Request(tmp_path, SIZE, void=-1, classes=2))
    assert found.seen[0].shares(-1) == {"void": 0, "class 0": 0.75, "class 1": 0.25}
    assert suspicion.notes(found.seen, -1) == []


@pytest.mark.parametrize(
    ("maps", "options", "says"),
    [
        ([disc(255)], {"classes": 2, "void": 255}, "only class 0 .*nothing to tell apart"),
        ([disc(0)], {}, "only class 0 .*nothing to tell apart"),
        ([disc(11, 11)], {}, r"no class .* 100 % .*void \(label 11\)"),
        ([disc(255)], {"classes": 2, "void": 9}, "--task salient"),
        ([disc(3, 1), disc(2, 1)], {"classes": 3}, "begin at 1, so set --classes 4.*--void 3"),
        ([disc(5, 1)], {"classes": 5}, r"begin at 1, so set --classes 6$"),
        ([disc(26001, 7, np.uint16)], {}, "26001.*of instances"),
        ([disc(70000, 7, np.int32)], {}, "70000.*of instances"),
        ([disc(-4, 7, np.int32)], {}, "label -4"),
        ([ramp(0, 10)], {"classes": 4, "void": 10}, "nowhere 3 pixels"),
        ([disc(17)], {}, "label 17, .*set --classes and --void, or give --table"),
        ([np.dstack([disc(200), disc(3), disc(9)])], {}, "in colour.*--table"),
        ([disc().astype(np.float32)], {}, "whole numbers"),
    ],
)  # fmt: skip
def test_labels_that_are_no_classes_are_refused_with_the_likely_reason(tmp_path, maps, options, says):
    refused(segmentation.run, camvid(tmp_path, *maps, **options), says)


def in_palette(labels, palette):
    image = Image.fromarray(labels, "P")
    image.putpalette([band for colour in palette for band in colour])
    return image


def test_a_palette_is_places_unless_files_contradict_each_other(tmp_path):
    red, green, blue = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    same = camvid(tmp_path / "same", *(in_palette(disc(2, 1), (blue, green, red)) for _ in range(2)))
    assert segmentation.surveyed(same).seen[0].shares(11) == {
        "void": 0,
        "class 1": 0.75,
        "class 2": 0.25,
    }
    other = [in_palette(disc(2, 1), (blue, green, red)), in_palette(disc(1, 2), (blue, red, green))]
    refused(segmentation.run, camvid(tmp_path / "other", *other), "different colours at .*--table")
    table = tmp_path / "colours.txt"
    table.write_text("0 200 0 4\n200 0 0 6\n")
    found = segmentation.surveyed(camvid(tmp_path / "other", *other, table=table))
    assert found.seen[0].shares(-1) == {"void": 0, "class 4": 0.75, "class 6": 0.25}
    assert found.classes == 7
    far = camvid(tmp_path / "far", in_palette(disc(40, 1), [red] * 41))
    refused(segmentation.run, far, "place in a palette.*--table")


def test_what_is_odd_is_noted_and_what_is_not_is_not(tmp_path):
    def notes(name, *maps, void=11, **options):
        found = segmentation.surveyed(camvid(tmp_path / name, *maps, void=void, **options))
        return " | ".join(suspicion.notes(found.seen, void))

    assert notes("plain", disc(1), disc(2)) == ""
    assert "75 % of the pixels of train are void (label 0)" in notes("void", disc(1), disc(2), void=0)
    tiny = np.zeros(SIZE, np.uint8)
    tiny[4:7, 4:7] = 1
    assert "class 0 has 99.4 % of the labelled pixels of val" in notes("tiny", tiny)
    assert "trimaps" in notes("trimap", disc(1, 2), disc(3, 2))
    assert "nowhere 3 pixels wide and high in train" in notes("ramp", ramp(0, 10), classes=11, void=255)
    # Borders that are void are thin by intent.
    border = disc(1)
    border[7, 12:36] = 255
    assert notes("border", border, void=255) == ""


def test_shares_are_of_all_pixels_that_are_used(tmp_path):
    request = camvid(tmp_path, disc(1), disc(11, 2), disc(3))
    found = segmentation.surveyed(request)
    wanted = {"void": 1 / 12, "class 0": 1 / 2, "class 1": 1 / 12, "class 2": 1 / 4, "class 3": 1 / 12}
    for seen in found.seen:
        assert seen.shares(11) == pytest.approx(wanted)
    (tmp_path / "val" / "labels" / "0.png").write_bytes(b"broken")
    # The one picture to judge is the next, where the first cannot be read.
    refused(segmentation.run, Request(tmp_path, SIZE, max_images=1), "only class 2 is in .* val")


def test_labels_of_which_none_can_be_read_are_refused(tmp_path):
    request = camvid(tmp_path, disc(1))
    (tmp_path / "train" / "labels" / "0.png").write_bytes(b"broken")
    with pytest.raises(ImagesError, match="no labels could be read"):
        segmentation.run(None, request)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "# what they mean\n0 0\n 1  2 \n\n3 void\n"),
        ("a.csv", "number,class\r\n0,0\r\n1,2\r\n3,255\r\n"),
        ("a.json", json.dumps({"0": 0, "1": 2, "3": "void"})),
        ("a.json", json.dumps([[0, 0], [1, 2], [3, -1]])),
        ("a.txt", "0;road\n1;tree\n3;void\n"),
        ("a.csv", "id,class,name\n0,0,road 1\n1,2,lane 2\n3,255,void\n"),
    ],
)
def test_tables_of_numbers(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    table = read_table(tmp_path / name)
    tree = 1 if "tree" in text else 2  # names are numbered in their order
    assert table.look_up(np.array([[0, 1], [3, 1]])).tolist() == [[0, tree], [VOID, tree]]
    assert (table.classes, table.colours) == (tree + 1, False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "64 128 64 0\n0 0 192 1\n0 0 0 void\n"),
        ("a.txt", "#408040 0\n#0000C0 1\n#000000 void\n"),
        ("a.csv", "name,r,g,b\nAnimal,64,128,64\nArchway,0,0,192\nVoid,0,0,0\n"),
        ("a.txt", "64 128 64\tAnimal\n0 0 192\tArchway\n0 0 0\tVoid\n"),
        ("a.json", json.dumps({"#408040": 0, "0,0,192": 1, "(0, 0, 0)": "void"})),
        ("a.json", json.dumps([[[64, 128, 64], 0], [[0, 0, 192], 1], [[0, 0, 0], -1]])),
        ("a.json", json.dumps({"type 1": [64, 128, 64], "type 2": [0, 0, 192], "void": [0, 0, 0]})),
        ("a.csv", "Type 1,64,128,64\nType 2,0,0,192\nunlabelled,0,0,0\n"),
    ],
)
def test_tables_of_colours(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    table = read_table(tmp_path / name)
    assert table.look_up(np.array([0x408040, 0x0000C0, 0])).tolist() == [0, 1, VOID]
    assert (table.classes, table.colours) == (2, True)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.txt", "", "holds nothing"),
        ("a.txt", "0 0\n#ff0000 1\n", "both numbers and colours"),
        ("a.txt", "0 0\n0 1\n", "two meanings"),
        ("a.txt", "0 0\nseven\n", "'seven': wanted are lines"),
        ("a.txt", "0 0 300 1\n", "'0 0 300 1'"),
        ("a.txt", "0 -3\n", "'0 -3'"),
        ("a.txt", "0 road\n1 1\n", "both names and numbers"),
        ("a.json", "{", "cannot read the table"),
        ("a.json", "7", "cannot read the table"),
        ("a.json", "[1, 2]", "cannot read the table"),
        ("a.json", '["12 3"]', "cannot read the table"),
        ("a.txt", "7 1.0\n", "'7 1.0'"),
        ("a.csv", "0,road,128,64,128\n", "'0 road 128 64 128'"),
        ("a.txt", "128 64 128\n", "'128 64 128'"),
        ("b.txt", None, "cannot read the table"),
        ("a.txt", "0 0\n1 99999\n", "'1 99999'"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(LabelsError, match=says):
        read_table(tmp_path / name)


def test_numbers_and_colours_a_table_does_not_have_are_named(tmp_path):
    (tmp_path / "n.txt").write_text("0 0\n1 1\n")
    (tmp_path / "c.txt").write_text("0 0 0 0\n255 0 0 1\n")
    request = camvid(tmp_path / "n", disc(7), table=tmp_path / "n.txt")
    refused(segmentation.run, request, r"0\.png has the number 7 in 25 % .*add it")
    colours = np.dstack([disc(250), disc(0), disc(0)])
    request = camvid(tmp_path / "c", colours, table=tmp_path / "c.txt")
    refused(segmentation.run, request, r"0\.png has the colour #fa0000 in 25 % .*add it")


def test_the_numbers_of_cityscapes_are_its_classes():
    # Road, car and bicycle, and what the benchmark leaves out: unlabelled, trailer, and caravan.
    assert CITYSCAPES_IDS.look_up(np.array([7, 26, 33, 0, 30, 29])).tolist() == [0, 13, 18] + 3 * [VOID]
    assert CITYSCAPES_IDS.classes == 19


@pytest.mark.parametrize(
    ("maps", "says"),
    [
        ([disc(1, 2), disc(3, 2)], "not white on black.*numbers 1, 2, 3;.*--table"),
        ([disc(38)], "numbers 0, 38;"),
        ([disc(1), disc(255)], "white is 1 in .* and 255 in "),
        ([disc(128), disc(255)], "numbers 0, 128, 255;"),
        ([disc(1, 0) + disc(254, 0) * (np.arange(48) < 30)], "numbers 0, 1, 255;"),
        ([disc(0)], "every mask in train is empty"),
        ([disc(255, 255)], "every mask in train is all object.*nothing to tell apart"),
        ([np.dstack([disc(200), disc(), disc()])], "in colour.*--table"),
        ([disc().astype(np.float32)], "floating-point"),
        ([disc(70000, 0, np.int32)], "16 bits"),
    ],
)
def test_masks_that_are_not_white_on_black_are_refused(tmp_path, maps, says):
    refused(salient.run, masks(tmp_path, *maps), says)


def test_a_table_says_what_the_numbers_of_masks_are(tmp_path):
    (tmp_path / "trimap.txt").write_text("1 1\n2 0\n3 void\n")
    trimap = disc(1, 2)
    trimap[:8] = 3
    request = masks(tmp_path / "data", trimap, table=tmp_path / "trimap.txt")
    seen = salient.surveyed(request)[2]
    assert seen[0].shares() == {"void": 0.25, "background": 0.5, "object": 0.25}


def test_soft_edges_and_single_odd_masks_are_fine_and_noted(tmp_path):
    soft = np.asarray(Image.fromarray(disc(255)).resize((192, 128), 2))
    _, _, (train, _) = salient.surveyed(masks(tmp_path / "soft", soft))
    assert mask_survey.notes([train]) == []
    ramp_wide = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (32, 1))
    _, _, (train, _) = salient.surveyed(masks(tmp_path / "ramp", ramp_wide))
    assert "grey: those more than half white count" in mask_survey.notes([train])[0]
    full, empty, tiny = disc(255, 255), disc(0), disc(0)
    tiny[3, 3] = 255
    one, two = salient.surveyed(masks(tmp_path / "odd", disc(255), full, empty, tiny))[2]
    assert [len(part.full) + len(part.empty) for part in (one, two)] == [2, 2]
    assert any("are all object" in note for note in mask_survey.notes([one, two]))


def test_prompted_masks_are_looked_at_before_any_model_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(prompted, "_check", lambda model, resolution: None)

    class Arms:
        models = (None, None)

    for name, mask, says in (
        ("empty", disc(0), "every mask in val is empty"),
        ("numbers", disc(2, 1), "numbers 1, 2;.*--table"),
        ("jpeg", np.dstack([disc(200), disc(), disc()]), "in colour"),
    ):
        refused(lambda _, request: prompted.run(Arms(), request), masks(tmp_path / name, mask), says)
    request = masks(tmp_path / "missing", disc(255), disc(255))
    (tmp_path / "missing" / "gt" / "00.png").unlink()
    with pytest.raises(LabelsError, match="has no labels"):
        prompted.run(Arms(), request)


def test_every_layout_is_surveyed_by_its_own_void():
    assert {name: layout.void for name, layout in layouts.SEGMENTATION.items()} == {
        "ade20k": 0, "voc": 255, "camvid": 11, "cityscapes": 255,
    }  # fmt: skip
