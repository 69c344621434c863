"""What becomes of one hostile input: the right answer, a refusal in one sentence, or a fault.

right      it worked, and what came out is what had to come out
refused    one SparsightError (a command: exit code 1 or 2) of at most 300 characters on one line, and
           everything that the input could reach is as it was
traceback  any other exception, or an exit code of neither kind
long       a refusal that is no short sentence
wrong      it worked with another result, was refused though it is right, was taken though it is
           not, or something was changed or left behind
hang       it took longer than the limit
crash      the process ended with it (seen by the next start of the campaign)
"""

import hashlib
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sparsight.errors import SparsightError

LONGEST = 300  # characters of a refusal
LIMIT_S = 30.0  # no input takes a second on an idle machine
FAULTS = ("traceback", "long", "wrong", "hang", "crash")
OUTCOMES = ("right", "refused", *FAULTS)


@dataclass
class Case:
    """One input: what it is in words, how it is handed over, and what is known of the answer."""

    what: str
    call: Callable[[], Any]
    flaw: Callable[[Any], str] = lambda _: ""  # what is wrong with an answer; "" if nothing
    must: Literal["", "work", "refuse"] = ""  # "": either will do
    state: Callable[[], Any] = lambda: None  # what a refusal must leave equal


class Refused(Exception):
    """A command's refusal: its exit code was 1 or 2."""


class _Hang(BaseException):
    pass


def judge(case: Case, limit_s: float = LIMIT_S) -> dict[str, Any]:
    """Outcome, its details and milliseconds of one case."""
    before = case.state()
    began = time.perf_counter()
    try:
        outcome, detail = _within(limit_s, lambda: _judged(case))
    except _Hang:
        outcome, detail = "hang", f"longer than {limit_s:g} s"
    except Exception as error:  # the call is inside; this is the check of its answer
        outcome, detail = "traceback", "checking: " + last_frames(error)
    took = 1e3 * (time.perf_counter() - began)
    if outcome == "refused" and case.must == "work":
        outcome, detail = "wrong", f"refused though right: {detail}"
    if outcome == "right" and case.must == "refuse":
        outcome, detail = "wrong", "taken without a word"
    if outcome == "refused" and (changed := difference(before, case.state())):
        outcome, detail = "wrong", f"a refusal changed {changed}: {detail}"
    return {"what": case.what, "outcome": outcome, "detail": detail, "ms": round(took, 1)}


def _judged(case: Case) -> tuple[str, str]:
    try:
        answer = case.call()
    except (SparsightError, Refused) as error:
        text = str(error)
        short = 0 < len(text) <= LONGEST and "\n" not in text.strip()
        return ("refused" if short else "long"), text[:2000]
    except Exception as error:
        return "traceback", last_frames(error)
    flaw = case.flaw(answer)
    return ("wrong", flaw) if flaw else ("right", "")


def last_frames(error: BaseException) -> str:
    """The kind of an error, and the last places of this package it came through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "benchmarks" not in f.filename]
    places = [f"{Path(f.filename).name}:{f.lineno}" for f in frames]
    own = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "/sparsight/" in f.filename]
    at = " < ".join(dict.fromkeys([*own[:-4:-1], *places[:-2:-1]]))
    return f"{type(error).__name__} at {at}: {' '.join(str(error).split())[:300]}"


def _within(limit_s: float, call: Callable[[], Any]) -> Any:
    """`call()`, or _Hang; a call that never comes back to Python ends with the process."""

    def ring(*_: Any) -> None:
        raise _Hang

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit_s, 1.0)  # again, if something swallows the first
    try:
        return call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder, with a digest of what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = repr(str(path.relative_to(folder)))[1:-1]
        if path.is_symlink():
            found[name] = "link"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return found


def difference(before: Any, after: Any) -> str:
    """The first thing in which two states differ, in words."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = [k for k in {**before, **after} if before.get(k) != after.get(k)]
        return ", ".join(map(str, names[:3]))
    return "" if before == after else f"{str(before)[:80]} into {str(after)[:80]}"
