"""Picture files and folders as people have them: kinds, damage, names, links, and what is left out."""

import io
import os
import struct
import unicodedata
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from test_images import fill

from sparsight.errors import ImagesError, SparsightError
from sparsight.images import (
    ImageFiles,
    ImageFolder,
    Reader,
    decoded,
    image_files,
    left_out,
    look_through,
)
from sparsight.images.names import LONGEST, short_name, shown

RED = (200, 40, 90)


def scene(size=(24, 16), mode="RGB"):
    """Red with a bright upper left corner: turned pictures can be told apart."""
    image = Image.new("RGB", size, RED)
    image.paste((255, 255, 255), (0, 0, size[0] // 2, size[1] // 2))
    return image.convert(mode)


def colour(path):
    """The lower right pixel."""
    return np.asarray(decoded(path).image)[-1, -1].tolist()


KINDS = ["jpg", "JPEG", "jfif", "png", "gif", "bmp", "webp", "tif", "tiff", "ppm", "tga", "jp2", "qoi"]
KINDS += ["avif"] if features.check("avif") else []


@pytest.mark.parametrize("ending", KINDS)
def test_every_kind_that_pillow_reads_by_itself_is_read(tmp_path, ending):
    scene().save(tmp_path / f"a.{ending}", **({"quality": 95} if ending.lower().startswith("j") else {}))
    assert image_files(tmp_path) == [tmp_path / f"a.{ending}"]
    assert colour(tmp_path / f"a.{ending}") == pytest.approx(
        list(RED), abs=8
    )  # lossy kinds, small palettes


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "I;16", "F"])
def test_every_mode_shows_what_it_shows_elsewhere(tmp_path, mode):
    if mode in ("I;16", "F"):
        grey = np.asarray(scene(mode="L"))
        image = Image.fromarray(
            grey.astype(np.uint16) * 257 if mode == "I;16" else grey / np.float32(255)
        )
        wanted = np.asarray(scene(mode="L").convert("RGB"))
    else:
        image = scene().convert("P").convert(mode) if mode == "PA" else scene(mode=mode)
        wanted = np.asarray(image.convert("RGB"))
    path = tmp_path / "a.tif"
    if mode == "PA":
        path = tmp_path / "a.png"
        image.convert("RGBA").quantize().save(path, transparency=0)
    else:
        image.save(path)
    assert np.abs(np.asarray(decoded(path).image).astype(int) - wanted).max() <= 2


def test_a_suffix_that_lies_is_read_by_content(tmp_path):
    scene().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert colour(tmp_path / "a.jpg") == list(RED)
    (tmp_path / "b.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ImagesError, match="no picture of a known kind"):  # PostScript runs a program
        decoded(tmp_path / "b.jpg")


def chunk(kind, data, right=True):
    """A chunk of a PNG, with a right checksum or not."""
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data) ^ (not right))
    )


def damaged_png(kind, data):
    """A PNG with a damaged chunk before its pixels."""
    buffer = io.BytesIO()
    scene().save(buffer, "PNG")
    content = buffer.getvalue()
    return content[:33] + chunk(kind, data, right=False) + content[33:]


DAMAGED = {
    "icc": damaged_png(b"iCCP", b"x\0\0not zlib"),
    "text": damaged_png(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0broken"),
    "exif png": damaged_png(b"eXIf", b"MM\0"),
}
EXIFS = {
    "garbage": b"Exif\0\0garbage",
    "cut": b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0" * 3,
    "type": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0",
    "nine": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("case", [*DAMAGED, *EXIFS])
def test_good_pixels_beside_damaged_metadata_are_read_in_silence(tmp_path, case, capfd):
    path = tmp_path / "a.jpg"
    if case in DAMAGED:
        path.write_bytes(DAMAGED[case])
    else:
        scene().save(path, exif=EXIFS[case], quality=95)
    assert colour(path) == pytest.approx(list(RED), abs=8)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_the_orientation_is_heeded_in_every_kind_that_has_one(tmp_path, turn, ending):
    exif = Image.Exif()
    exif[0x0112] = turn
    scene().save(tmp_path / f"a.{ending}", exif=exif)
    found = decoded(tmp_path / f"a.{ending}").image
    assert found.size == ((24, 16) if turn < 5 else (16, 24))
    corners = {(0, 0): (1, 5), (-1, 0): (2, 6), (-1, -1): (3, 7), (0, -1): (4, 8)}
    pixels = np.asarray(found)
    bright = [turns for (x, y), turns in corners.items() if pixels[y, x].min() > 200]
    assert len(bright) == 1
    assert turn in bright[0]


def test_of_several_pages_or_frames_the_first_is_read_and_noted(tmp_path):
    pages = [Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), (0, 0, 255))]
    for ending in ("tif", "gif", "webp", "png"):
        more = {"lossless": True} if ending == "webp" else {}
        pages[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=pages[1:], **more)
        assert colour(tmp_path / f"a.{ending}") == pytest.approx(list(RED), abs=3)
    images = ImageFolder(tmp_path, (8, 8))
    for place in range(4):
        _ = images[place], images[place]
    assert images.notes == ("4 x several pages or frames, of which the first was read",)


def test_four_bands_are_read_as_they_are_and_others_refused(tmp_path):
    bands = np.zeros((8, 8, 4), np.uint8)
    bands[...] = (10, 20, 30, 0)  # as opacity, the fourth would hide the others
    Image.fromarray(bands).save(tmp_path / "four.tif")
    found = ImageFiles([tmp_path / "four.tif"], (16, 16), (0,) * 4, (1,) * 4)[0]
    assert (found[:, 5, 5] * 255).round().tolist() == [10, 20, 30, 0]
    with pytest.raises(ImagesError, match=r"bands are R\+G\+B\+A, and the model takes 8"):
        _ = ImageFiles([tmp_path / "four.tif"], (16, 16), (0,) * 8, (1,) * 8)[0]
    assert ImageFiles([tmp_path / "four.tif"], (16, 16), (0,), (1,))[0].shape == (1, 16, 16)


def left(path):
    """The reason why a file is left out."""
    with pytest.raises(ImagesError) as caught:
        decoded(path)
    assert len(str(caught.value)) <= 300
    return left_out([str(caught.value)])


def test_what_cannot_be_read_is_left_out_for_a_reason(tmp_path):
    scene((400, 300)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("<html>404</html>")
    os.mkfifo(tmp_path / "pipe.png")
    assert left(tmp_path / "a.jpg") == "1: 1 truncated"
    assert left(tmp_path / "empty.png") == "1: 1 an empty file"
    assert left(tmp_path / "text.png") == "1: 1 no picture of a known kind"
    assert left(tmp_path / "gone.png") == left(tmp_path / "pipe.png") == "1: 1 there is no such file"


def test_large_pictures_are_read_in_silence_or_left_out_with_what_to_do(tmp_path, monkeypatch):
    scene().save(tmp_path / "a.png")  # 384 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert colour(tmp_path / "a.png") == list(RED)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert left(tmp_path / "a.png") == "1: 1 too large"
    with pytest.raises(ImagesError, match="cut it into tiles"):
        decoded(tmp_path / "a.png")


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "bmp", "webp", "tif", "ppm", "tga", "jp2"])
def test_no_damage_ends_in_another_error(tmp_path, ending):
    scene().save(tmp_path / f"a.{ending}")
    content = (tmp_path / f"a.{ending}").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(content[: rng.integers(1, len(content) + 1)])
        for place in rng.integers(0, len(damaged), 4):
            damaged[place] = rng.integers(256)
        with suppress(ImagesError):  # any other error fails
            assert decoded(bytes(damaged)).image.mode == "RGB"


def test_what_is_no_picture_is_passed_over_and_counted(tmp_path, no_heic):
    fill(tmp_path / "a", 2)
    for name in ("1.heic", "2.HEIC", "b.zip", "README", "notes.txt", "._0.png", ".DS_Store"):
        (tmp_path / "a" / name).write_bytes(b"x" * 200)
    fill(tmp_path / "a" / ".ipynb_checkpoints", 3)
    fill(tmp_path / "__MACOSX", 3)
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    images = ImageFolder(tmp_path, (8, 8))
    assert [images.name_of(place) for place in range(len(images))] == ["a/0.png", "a/1.png"]
    expected = {"hidden": 3, ".zip (unpack it)": 1, ".txt": 1, "without an ending": 1}
    expected |= {"broken link or no file": 1}
    assert {key: count for key, count in images.passed.items() if "heic" not in key} == expected
    said = left_out([], images)
    assert said.startswith("9: 3 hidden, 2 .heic (pip install 'sparsight[heic]')")
    assert len(list(Reader(images).spread(2))) == 2  # no place is lost on what is no picture


def test_links_are_followed_once_and_circles_end(tmp_path):
    fill(tmp_path / "set" / "real", 2)
    fill(tmp_path / "elsewhere", 1)
    (tmp_path / "set" / "a_link").symlink_to("real")
    (tmp_path / "set" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "up").symlink_to(tmp_path)
    (tmp_path / "set" / "real" / "circle").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "self").symlink_to("self")
    found = [str(path.relative_to(tmp_path / "set")) for path in image_files(tmp_path / "set")]
    assert found == ["out/0.png", "real/0.png", "real/1.png"]


def refusal(place):
    with pytest.raises(ImagesError) as caught:
        ImageFolder(place, (8, 8))
    assert len(str(caught.value)) <= 300
    return str(caught.value)


def test_what_is_no_folder_of_pictures_is_refused_in_a_sentence(tmp_path, no_heic):
    for name, says in (
        ("a.zip", "is an archive: unpack it"), ("a.tar.gz", "is an archive"),
        ("a.parquet", "is no folder"),
        ("a.jpg", "is a single picture"), ("a.heic", "is a single picture"), ("list.txt", "is a file"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(b"x")
        assert says in refusal(tmp_path / name)
    assert "no folder" in refusal(tmp_path / "none")
    assert "no folder" in refusal(str(tmp_path) + "/a\0b")
    (tmp_path / "phone").mkdir()
    assert refusal(tmp_path / "phone").endswith("holds no image that can be read")
    (tmp_path / "phone" / "1.heic").write_bytes(b"x")
    assert "but 1 .heic (pip install 'sparsight[heic]')" in refusal(tmp_path / "phone")


def test_folders_that_may_not_be_listed_are_told_or_counted(tmp_path, monkeypatch):
    fill(tmp_path / "a", 1)
    fill(tmp_path / "b", 1)
    listed = os.scandir

    def refuse(place):
        if Path(place).name == "b":
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", refuse)
    found = look_through(tmp_path)
    assert [path.parent.name for path in found.paths] == ["a"]
    assert found.passed == {"folder that cannot be listed (Permission denied)": 1}
    assert "cannot list" in refusal(tmp_path / "b")


NAMES = {
    "bytes": os.fsdecode(b"caf\xe9"), "composed": unicodedata.normalize("NFC", "café"),
    "decomposed": unicodedata.normalize("NFD", "café"), "line": "a\nb", "long": "x" * 240,
    "narrow space": "3.00\u202fPM", "emoji": "🦆",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_name_is_read_and_shown(tmp_path, name):
    try:
        fill(tmp_path / name, 1)
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    (tmp_path / name / f"{name}.png").write_bytes((tmp_path / name / "0.png").read_bytes())
    (tmp_path / name / f"{name}.jpg").write_bytes(b"")
    images = ImageFolder(tmp_path / name, (8, 8))
    assert len(images) == 3
    for place in range(3):
        told = images.name_of(place)
        assert told.encode("utf-8")
        assert "\n" not in told
    reader = Reader(images)
    assert len(list(reader.spread(3))) == 2
    (said,) = reader.skipped.values()
    assert said.encode("utf-8")
    assert "\n" not in said
    assert len(said) <= 300


def test_names_are_shown_as_they_are_where_they_can_be():
    assert shown("Bild 3.00\u202fPM é 🦆.png") == "Bild 3.00\u202fPM é 🦆.png"
    assert shown(os.fsdecode(b"caf\xe9\x1b[2J")) == "caf\ufffd\ufffd[2J"
    assert len(short_name("a/" * 200)) == LONGEST
    assert short_name("a/b.png") == "a/b.png"


def test_a_file_that_vanishes_costs_no_other(tmp_path):
    images = ImageFolder(fill(tmp_path / "a", 4), (8, 8))
    reader = Reader(images)
    given = reader.placed(4)
    assert next(given)[0] == 0
    (tmp_path / "a" / "2.png").unlink()
    assert [place for place, _ in given] == [1, 3]
    assert left_out(reader.skipped.values(), images) == "1: 1 there is no such file"


def test_pictures_of_phones_are_read_with_the_extra(tmp_path):
    pytest.importorskip("pillow_heif", reason="needs the extra [heic]")
    image_files(tmp_path)  # lets Pillow know of the kind
    scene().save(tmp_path / "a.heic", quality=95)
    assert image_files(tmp_path) == [tmp_path / "a.heic"]
    assert colour(tmp_path / "a.heic") == pytest.approx(list(RED), abs=8)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "I;16", "CMYK"])
@pytest.mark.parametrize("turn", [3, 6, 8])
def test_a_turned_tiff_that_is_not_packed_is_read_upright(tmp_path, mode, turn):
    """Pillow maps such a file into memory if it is given its path, and scrambles quarter turns."""
    pixels = np.arange(16 * 64, dtype=np.uint16).reshape(16, 64) % 251
    grey = Image.fromarray(pixels.astype(np.uint8))
    image = Image.fromarray(pixels * 257) if mode == "I;16" else grey.convert(mode)
    image.save(tmp_path / "plain.tif")
    exif = Image.Exif()
    exif[0x0112] = turn
    image.save(tmp_path / "turned.tif", exif=exif)
    plain = np.asarray(decoded(tmp_path / "plain.tif").image)
    turns = {3: 2, 6: 3, 8: 1}  # quarter turns against the clock
    wanted = np.rot90(plain, turns[turn])
    assert np.array_equal(np.asarray(decoded(tmp_path / "turned.tif").image), wanted)


@pytest.mark.parametrize("std", [(0, 0, 0), (1, 1), (-1, 1, 1), (float("nan"),) * 3, "abc", 0.5, None])
def test_a_normalisation_that_is_none_is_refused(tmp_path, std):
    with pytest.raises(SparsightError, match="std"):
        ImageFolder(fill(tmp_path), (16, 16), (0.5,) * 3, std)


@pytest.mark.parametrize("size", [(0, 16), (-16, 16), (16,), "32", (1.5, 16)])
def test_a_size_that_is_none_is_refused(tmp_path, size):
    with pytest.raises(SparsightError, match="resolution"):
        ImageFolder(fill(tmp_path), size)
