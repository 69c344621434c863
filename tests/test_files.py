"""Files are written whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from sparsight.errors import SparsightError
from sparsight.files import check_place, check_writable, write_atomically, write_json, write_text


def test_a_failure_keeps_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old")

    def half(place):
        place.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_one_sentence():
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full, which is always full")
    with pytest.raises(SparsightError, match=r"cannot write /dev/full: .*No space left"):
        write_text(Path("/dev/full"), "x" * 100_000)
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)  # the device was written to, not replaced


def test_a_link_is_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_folders_are_made_and_files_refused(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(SparsightError, match="is a file"):
        check_writable(tmp_path / "file")


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    import subprocess
    import sys

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for writer in (dead.pid, os.getpid()):
        (tmp_path / f".plan.json.{writer}.tmp").write_text("ha")
    (tmp_path / ".mine.tmp").write_text("of the user")
    check_writable(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f".plan.json.{os.getpid()}.tmp", ".mine.tmp"}


def test_places_for_files_are_refused_before_the_work(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in (tmp_path, file / "a.json", tmp_path / "loop" / "a.json"):
        with pytest.raises(SparsightError, match=r"is a folder|cannot write"):
            check_place(place)
    with pytest.raises(SparsightError, match="zero byte"):
        check_place(tmp_path / "a\0b")
    check_place(Path("/dev/null"))
    before = set(tmp_path.iterdir())
    check_place(tmp_path / "new" / "deep" / "a.json")
    assert set(tmp_path.iterdir()) == before
    write_text(tmp_path / "loop", "new")  # a link in circles names no file: it is replaced
    assert (tmp_path / "loop").read_text() == "new"


def test_a_name_that_is_no_unicode_is_written_with_a_replacement(tmp_path):
    write_text(tmp_path / "command.txt", "--images " + os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "command.txt").read_text(encoding="utf-8") == "--images caf?"
