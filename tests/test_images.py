"""Images for the stages: folders good and bad, resolutions that fit and do not."""

import numpy as np
import pytest
import torch
from PIL import Image

from sparsight.errors import ImagesError
from sparsight.images import (
    Held,
    ImageFiles,
    ImageFolder,
    Reader,
    check_resolution,
    left_out,
    parse_resolution,
)


def fill(folder, count=4, size=(40, 30)):
    """Write `count` flat pictures of different grey; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", size, (20 * i, 20 * i, 20 * i)).save(folder / f"{i}.png")
    return folder


def test_a_folder_is_read_in_order_resized_and_normalised(tmp_path):
    images = ImageFolder(fill(tmp_path / "a"), (16, 24), mean=(0.5,) * 3, std=(0.25,) * 3)
    assert len(images) == 4
    picture = images[2]
    assert picture.shape == (3, 16, 24)
    assert picture.dtype == torch.float32
    assert torch.allclose(picture, torch.tensor((40 / 255 - 0.5) / 0.25))


def test_other_modes_and_orientation(tmp_path):
    rows = np.zeros((8, 16), np.uint8)
    rows[:, 8:] = 255
    Image.fromarray(rows).save(tmp_path / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate to show
    Image.fromarray(rows).convert("RGB").save(tmp_path / "turned.jpg", exif=exif, quality=100)
    Image.new("RGBA", (8, 8), (255, 0, 0, 3)).save(tmp_path / "transparent.png")
    grey = ImageFolder(tmp_path, (8, 16), (0, 0, 0), (1, 1, 1))[0]
    assert grey[0, 0].tolist() == [0] * 8 + [1] * 8
    turned = ImageFolder(tmp_path, (16, 8), (0, 0, 0), (1, 1, 1))[2]
    assert turned[0, 2].max() < 0.1
    assert turned[0, -2].min() > 0.9


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(ImagesError, match="no folder"):
        ImageFolder(tmp_path / "none", (8, 8))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ImagesError, match="holds no image"):
        ImageFolder(tmp_path, (8, 8))


def test_bad_images_are_skipped_and_counted(tmp_path):
    folder = fill(tmp_path / "a", 3)
    (folder / "0.png").write_bytes(b"not an image")
    (folder / "1.png").write_bytes((folder / "2.png").read_bytes()[:60])
    reader = Reader(ImageFolder(folder, (8, 8)))
    assert len(list(reader.spread(3))) == 1
    assert sorted(reader.skipped) == [0, 1]
    said = left_out(reader.skipped.values(), reader.images)
    assert said == "2: 1 no picture of a known kind, 1 truncated"
    assert "0.png" in reader.skipped[0]
    assert reader.read(0).shape == (3, 8, 8)  # passes over the bad ones to the good one


def test_only_bad_images_are_refused(tmp_path):
    folder = fill(tmp_path / "a", 2)
    for path in folder.iterdir():
        path.write_bytes(b"")
    reader = Reader(ImageFolder(folder, (8, 8)))
    with pytest.raises(ImagesError, match="no image could be read"):
        list(reader.spread(2))
    with pytest.raises(ImagesError, match="none of the 2 images"):
        reader.read(1)


def test_spread_covers_the_whole_set(tmp_path):
    reader = Reader(list(torch.arange(10.0)))
    assert [int(t) for t in reader.spread(5)] == [0, 2, 4, 6, 8]
    assert len(list(reader.spread(100))) == 10
    with pytest.raises(ImagesError, match="there is no image"):
        Reader([])


def test_resolutions():
    assert parse_resolution("1024") == (1024, 1024)
    assert parse_resolution("768X1024") == (768, 1024)
    for text in ("", "0", "x", "8x", "1x2x3", "-4", "1.5"):
        with pytest.raises(ImagesError, match="neither like 1024"):
            parse_resolution(text)
    check_resolution((32, 48), (16, 16))
    with pytest.raises(ImagesError, match=r"518x520 is not a multiple .* 14x14; .*: 518x518"):
        check_resolution((518, 520), (14, 14))


def value_of(path) -> list[float]:
    """The colour of the first pixel, 0 to 1."""
    return ImageFiles([path], (8, 8), (0, 0, 0), (1, 1, 1))[0][:, 0, 0].tolist()


def test_sixteen_bits_keep_their_brightness(tmp_path):
    Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((8, 8), 64 * 257, np.int32)).save(tmp_path / "wide.tif")
    assert value_of(tmp_path / "grey.png") == pytest.approx([128 / 255] * 3)
    assert value_of(tmp_path / "wide.tif") == pytest.approx([64 / 255] * 3)


def test_values_of_unknown_range_are_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 1.5, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "nan.tif")
    Image.fromarray(np.full((8, 8), 1 << 20, np.int32)).save(tmp_path / "huge.tif")
    for name, says in (("float.tif", "outside 0 to 1"), ("nan.tif", "outside"), ("huge.tif", "16 bits")):
        with pytest.raises(ImagesError, match=says):
            value_of(tmp_path / name)


def test_values_of_less_than_sixteen_bits_are_scaled_by_their_own_range_and_noted(tmp_path):
    for bits in (10, 12):
        pixels = np.array([[0, 2 ** (bits - 1), 2**bits - 1]] * 3, np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"{bits}.png")
    images = ImageFolder(tmp_path, (3, 3), (0,) * 3, (1,) * 3)
    for place in range(2):
        assert images[place][0, 0].tolist() == pytest.approx([0, 127 / 255, 1], abs=0.005)
    assert [note.split(", ")[0] for note in images.notes] == [
        f"1 x 16-bit files whose values need {bits} bits" for bits in (10, 12)
    ]
    Image.fromarray(np.full((8, 8), 0.25, np.float32)).save(tmp_path / "float.tif")
    assert value_of(tmp_path / "float.tif") == pytest.approx([0.25] * 3, abs=0.002)


def test_cmyk_and_transparent_pictures_keep_their_colour(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    Image.new("RGBA", (8, 8), (255, 0, 0, 3)).save(tmp_path / "transparent.png")
    for name in ("print.jpg", "transparent.png"):
        assert value_of(tmp_path / name) == pytest.approx([1, 0, 0], abs=0.02)  # JPEG's rounding


@pytest.mark.parametrize("size", [(40, 1), (1, 40), (1, 1), (5, 3)])
def test_pictures_smaller_than_a_patch_are_enlarged(tmp_path, size):
    Image.new("RGB", size, (255, 0, 0)).save(tmp_path / "tiny.png")
    assert ImageFiles([tmp_path / "tiny.png"], (32, 48), (0,) * 3, (1,) * 3)[0].shape == (3, 32, 48)
    assert value_of(tmp_path / "tiny.png") == [1, 0, 0]


def test_places_are_kept_when_pictures_are_skipped(tmp_path):
    folder = fill(tmp_path / "a", 4)
    (folder / "1.png").write_bytes(b"")
    assert [place for place, _ in Reader(ImageFolder(folder, (8, 8))).placed(4)] == [0, 2, 3]


def test_a_bad_picture_is_replaced_by_the_next_good_one_within_its_part_of_the_set(tmp_path):
    folder = fill(tmp_path / "a", 8)
    for place in (0, 4, 5):
        (folder / f"{place}.png").write_bytes(b"")
    reader = Reader(ImageFolder(folder, (8, 8)))
    # Parts 0 to 1, 2 to 3, 4 to 5 and 6 to 7; nothing in the third can be read.
    assert [place for place, _ in reader.placed(4)] == [1, 2, 6]
    assert left_out(reader.skipped.values()) == "3: 3 an empty file"


class Counted:
    """Three pictures of 48 bytes, the second unreadable, that count how often they are read."""

    def __init__(self):
        self.reads = [0, 0, 0]

    def __len__(self):
        return 3

    def __getitem__(self, index):
        self.reads[index] += 1
        if index == 1:
            raise ImagesError("broken")
        return torch.full((3, 2, 2), float(index))

    def name_of(self, index):
        return "abc"[index]


@pytest.mark.parametrize(("budget", "reads"), [(96, [1, 1, 1]), (95, [1, 1, 4]), (0, [4, 1, 4])])
def test_pictures_are_read_once_as_far_as_the_memory_goes(budget, reads):
    images = Counted()
    held = Held(images, budget)
    for _ in range(2):
        reader = Reader(held)
        assert [place for place, _ in reader.placed(3)] == [0, 2]
        assert [picture[0, 0, 0].item() for picture in reader.spread(3)][-1] == 2
        assert reader.skipped == {1: "broken"}
    assert held.name_of(1) == "b"
    # Four times if it is not kept; that one is unreadable needs no memory.
    assert images.reads == reads


def test_a_picture_with_its_labels_counts_as_a_whole():
    pairs = [(torch.zeros(3, 2, 2), torch.zeros(2, 2)), (torch.ones(3, 2, 2), torch.ones(2, 2))]
    held = Held(pairs, budget_bytes=64 + 63)  # one pair is 48 + 16 bytes
    assert [held[0][0].sum(), held[1][1].sum()] == [0, 4]
    assert list(held.kept) == [0]
