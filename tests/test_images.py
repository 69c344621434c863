"""Images for the stages: folders good and bad, resolutions that fit and do not."""

import numpy as np
import pytest
import torch
from PIL import Image

from sparsight.errors import ImagesError
from sparsight.images import ImageFolder, Reader, check_resolution, parse_resolution


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
