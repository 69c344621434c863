"""Pictures with labels: layouts found, bad input refused in a sentence that names the file."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from task_data import save, segmentation_folder

from sparsight.errors import ImagesError, LabelsError
from sparsight.tasks import layouts
from sparsight.tasks.base import Request
from sparsight.tasks.labels import LabelFile, LabelledFiles
from sparsight.tasks.masks import object_masks, objects
from sparsight.tasks.numbers import class_numbers
from sparsight.tasks.pairs import match
from sparsight.tasks.table import VOID, table_of


def samples(folder, read, size=(32, 32)):
    return LabelledFiles(match(folder / "images", folder / "labels"), Request(folder, size), read)


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
    folder = pair(tmp_path, np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    with pytest.raises(LabelsError, match=r"in colour.*--table"):
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


def mask_file(pixels, mode=None, **options):
    image = Image.fromarray(np.asarray(pixels), mode) if mode else Image.fromarray(np.asarray(pixels))
    return LabelFile(Path("a.png"), image, **options)


def test_masks_of_every_kind():
    mask = object_masks()
    grey = mask_file(np.array([[0, 100, 200, 255]], np.uint8))
    assert mask(grey).tolist() == [[0, 0, 1, 1]]
    assert mask(mask_file(np.array([[0, 1, 1, 0]], np.uint8))).tolist() == [[0, 1, 1, 0]]
    assert mask(mask_file(np.array([[False, True]]))).tolist() == [[0, 1]]
    for mode in ("RGB", "RGBA", "LA", "CMYK"):
        assert mask(grey._replace(image=grey.image.convert(mode))).tolist() == [[0, 0, 1, 1]], mode
    assert mask(mask_file(np.array([[0, 30000, 60000]], np.uint16))).tolist() == [[0, 0, 1]]
    assert mask(mask_file(np.zeros((1, 3), np.uint8))).tolist() == [[0, 0, 0]]
    # What JPEG leaves of black is no object, however small its largest number.
    assert mask(mask_file(np.array([[0, 1]], np.uint8), lossy="JPEG")).tolist() == [[0, 0]]


def test_palettes_of_masks_are_objects_unless_they_are_black_and_white():
    palette = mask_file(np.array([[0, 1, 2, 255]], np.uint8), "P")
    palette.image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    assert objects()(palette).tolist() == [[0, 1, 2, VOID]]
    assert object_masks()(palette).tolist() == [[0, 1, 1, VOID]]
    white_first = mask_file(np.array([[0, 1, 1]], np.uint8), "P")
    white_first.image.putpalette([255, 255, 255, 0, 0, 0])
    assert objects()(white_first).tolist() == [[1, 0, 0]]


def test_transparency_is_the_mask_where_it_alone_says_something():
    alpha = np.array([[0, 255, 200]], np.uint8)
    black = np.zeros((1, 3, 3), np.uint8)
    assert object_masks()(mask_file(np.dstack([black, alpha]))).tolist() == [[0, 1, 1]]
    agree = np.where(alpha[..., None] > 127, 255, black).astype(np.uint8)
    assert object_masks()(mask_file(np.dstack([agree, alpha]))).tolist() == [[0, 1, 1]]
    for read in (object_masks(), class_numbers(256, 9)):
        with pytest.raises(LabelsError, match="transparen"):
            read(mask_file(np.dstack([255 - agree, alpha])))


def test_coloured_masks_want_a_table():
    red = mask_file(np.array([[[0, 0, 0], [128, 0, 0]]], np.uint8))
    with pytest.raises(LabelsError, match=r"in colour.*--table"):
        object_masks()(red)
    table = table_of({0: 0, 0x800000: 5}, colours=True)
    assert object_masks(table)(red).tolist() == [[0, 1]]
    assert objects(table)(red).tolist() == [[0, 5]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_of_any_depth_is_a_number(tmp_path, bits):
    """Pillow spreads grey of two and four bits over 0 to 255, which no number of a class survives."""
    most = min(2**bits, 300) - 1
    numbers = np.array([[0, most, most, 0, 0, most, 0, most]])
    pair(tmp_path, np.zeros((1, 8), np.uint8))
    (tmp_path / "labels" / "a.png").write_bytes(grey_png(numbers, bits))
    assert samples(tmp_path, class_numbers(301, 300))[0].labels.tolist() == numbers.tolist()


def grey_png(numbers, bits):
    """A grey PNG of a depth that Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = numbers.shape
    rows = b"".join(
        b"\0" + int("".join(f"{n:0{bits}b}" for n in row), 2).to_bytes(width * bits // 8, "big")
        for row in numbers.tolist()
    )
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def test_grey_kept_as_colours_is_a_number(tmp_path):
    labels = np.array([[0, 7], [3, 7]], np.uint8)
    for mode in ("RGB", "RGBA", "LA"):
        folder = pair(tmp_path / mode, labels)
        Image.fromarray(labels).convert(mode).save(folder / "labels" / "a.png")
        assert samples(folder, class_numbers(8, 255))[0].labels.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("jpg", {}), ("webp", {}), ("tif", {"compression": "jpeg"}), ("png", {"format": "JPEG"})],
)
def test_labels_in_a_lossy_format_are_refused(tmp_path, kind, options):
    """By what the file holds, not by its name; white on black survives a threshold."""
    labels = np.zeros((32, 32), np.uint8)
    labels[8:24, 8:24] = 7
    folder = pair(tmp_path, labels)
    (folder / "labels" / "a.png").unlink()
    Image.fromarray(255 * (labels > 0).astype(np.uint8)).save(folder / "labels" / f"a.{kind}", **options)
    with pytest.raises(LabelsError, match="export them again as PNG"):
        samples(folder, class_numbers(256, 255))[0]
    assert samples(folder, object_masks())[0].labels.tolist() == (labels > 0).astype(int).tolist()


def test_lossless_webp_and_gif_are_read(tmp_path):
    labels = np.zeros((32, 32), np.uint8)
    labels[8:24, 8:24] = 1
    for kind, options in (("webp", {"lossless": True}), ("gif", {}), ("bmp", {}), ("tif", {})):
        folder = pair(tmp_path / kind, labels)
        (folder / "labels" / "a.png").unlink()
        Image.fromarray(labels).save(folder / "labels" / f"a.{kind}", **options)
        assert samples(folder, class_numbers(2, 255))[0].labels.tolist() == labels.tolist()


def test_files_of_several_pictures_are_refused(tmp_path):
    folder = pair(tmp_path, np.zeros((8, 8), np.uint8))
    (folder / "labels" / "a.png").unlink()
    pages = [Image.fromarray(np.full((8, 8), k, np.uint8)) for k in (0, 1)]
    pages[0].save(folder / "labels" / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(LabelsError, match="holds 2 pictures"):
        samples(folder, class_numbers(2, 255))[0]


@pytest.mark.parametrize("cut", [8, 30, 60, 100])
def test_damaged_labels_never_end_in_a_traceback(tmp_path, cut):
    folder = pair(tmp_path, np.arange(4096, dtype=np.uint16).reshape(64, 64) % 5)
    whole = (folder / "labels" / "a.png").read_bytes()
    for content in (whole[:cut], whole[:cut] + b"\xff" * 40 + whole[cut + 40 :]):
        (folder / "labels" / "a.png").write_bytes(content)
        with pytest.raises(ImagesError, match="cannot read"):
            samples(folder, class_numbers(5, 255))[0]


def test_a_folder_that_does_not_match_names_the_first(tmp_path):
    folder = segmentation_folder(tmp_path / "a") / "train"
    (folder / "labels" / "3.png").unlink()
    (folder / "labels" / "5.png").unlink()
    with pytest.raises(LabelsError, match=r"images/3\.png has no labels"):
        match(folder / "images", folder / "labels")
    folder = segmentation_folder(tmp_path / "b") / "train"
    (folder / "images" / "2.png").unlink()
    with pytest.raises(LabelsError, match=r"labels/2\.png has no picture"):
        match(folder / "images", folder / "labels")
    (folder / "images" / "2.jpg").write_bytes(b"")
    (folder / "images" / "2.png").write_bytes(b"")
    with pytest.raises(LabelsError, match="which of them is meant"):
        match(folder / "images", folder / "labels")
    with pytest.raises(LabelsError, match="there is no folder"):
        match(folder / "images", folder / "masks")


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
    with pytest.raises(LabelsError, match=r"names 9, and there is no .*JPEGImages/9\."):
        layout.pairs(voc, "val")

    assert layouts.segmentation(segmentation_folder(tmp_path / "camvid"), None)[0] == "camvid"
    with pytest.raises(LabelsError, match="none of the layouts"):
        layouts.segmentation(tmp_path, None)
    with pytest.raises(LabelsError, match="JPEGImages"):
        layouts.segmentation(tmp_path / "ade", "voc")
