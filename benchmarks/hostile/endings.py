"""How a long verb ends after a kill, on a full disk, in a folder that may not be written.  (kills.py)"""

import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.hostile import verbs
from benchmarks.hostile.judge import LONGEST, difference, files
from benchmarks.hostile.small import sentence_of

import sparsight
from sparsight.errors import SparsightError

NOBODY = 65534


def place_of(base: Path) -> Path:
    """A new folder with all that the verbs need."""
    work = Path(tempfile.mkdtemp(prefix="kills-"))
    shutil.copytree(base, work, dirs_exist_ok=True, symlinks=True)
    return work


def killed(
    verb: str, number: int, base: Path, reference: dict[str, Any], took_s: float
) -> tuple[str, str]:
    """One kill or more, then the same command to its end."""
    rng = random.Random(f"{verb}:{number}")
    work = place_of(base)
    words, moments = verbs.VERBS[verb], []
    while True:
        share = rng.random()
        moments.append(round(share, 3))
        if verbs.ended(verbs.forked(work, words), kill_after_s=share * took_s) is not None:
            break  # it was faster
        if why := unreadable(work):
            return "half-written", f"after {moments}: {why}"
        if rng.random() < 0.7:
            break
    return finished(verb, work, reference, f"killed at {moments}")


def unreadable(work: Path) -> str:
    """Why a run that was cut off is neither loaded nor refused in a sentence."""
    for folder in ("out", "out/unfinished"):
        try:
            sparsight.load(work / folder)
        except SparsightError:
            pass
        except Exception as error:
            return f"{folder}: {type(error).__name__}: {error}"
    return ""


def finished(verb: str, work: Path, reference: dict[str, Any], what: str) -> tuple[str, str]:
    """The same command once more, left alone, and what it leaves beside the reference."""
    if verb == "finetune" and (work / "out" / "model.safetensors").exists():
        exit_code: int | None = 0  # it had ended, and says so instead of doing it again
    else:
        exit_code, _ = verbs.whole(work, verbs.VERBS[verb])
    words = (work / "words.txt").read_text(errors="replace")
    if exit_code != 0:
        return "failed again", f"{what}: exit code {exit_code}: {words[-300:]}"
    if other := difference(reference, verbs.left(work)):
        return "other result", f"{what}: {other}"
    shutil.rmtree(work)
    return "same", what


def filled(verb: str, number: int, base: Path, reference: dict[str, Any], way: str) -> tuple[str, str]:
    """A disk that is full, then one that is not."""
    rng = random.Random(f"{way}:{verb}:{number}")
    work = place_of(base)
    size = round(2 ** rng.uniform(0, 22))
    at = rng.choice((1, 2, 3, 4, 5, 6, 8, 10))
    before, what = (
        (verbs.no_larger(size), f"{size} bytes")
        if way == "full disk"
        else (verbs.full_at(at), f"write {at}")
    )
    exit_code = verbs.ended(verbs.forked(work, verbs.VERBS[verb], before))
    room = way != "full disk" or size > 4 * LONGEST  # else there is none for the words themselves
    if exit_code != 0 and room and (why := unsaid(work, exit_code)):
        return "no sentence", f"{what}: {why}"
    if partial := [p.name for p in (work / "out").rglob("*.tmp")]:
        return "half-written", f"{what}: {partial[0]} is left"
    return finished(verb, work, reference, what)


def locked(verb: str, base: Path) -> tuple[str, str]:
    """Every folder read-only, for a user who is not root."""
    work = place_of(base)
    for path in (work, *work.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (work / "words.txt").touch()
    (work / "words.txt").chmod(0o666)
    before = files(work)
    exit_code = verbs.ended(verbs.forked(work, verbs.VERBS[verb], lambda: os.setuid(NOBODY)))
    if why := unsaid(work, exit_code):
        return "no sentence", why
    changed = difference(before | {"words.txt": ""}, files(work) | {"words.txt": ""})
    shutil.rmtree(work)
    return ("changed", changed) if changed else ("same", "refused")


def unsaid(work: Path, exit_code: int | None) -> str:
    """Why a command that could not write has not said so in one sentence."""
    words = (work / "words.txt").read_text(errors="replace")
    if "Traceback" in words:
        return words[-400:]
    said = sentence_of(words, 1)
    good = (
        exit_code == 1
        and said
        and len(said) <= LONGEST
        and "\n" not in said
        and "no sentence" not in said
    )
    return "" if good else f"exit code {exit_code}: {words[-300:]}"
