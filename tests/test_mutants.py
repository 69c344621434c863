"""The mutation check: what it leaves out, and which tests it tries."""

import signal

import pytest
from benchmarks.mutants.bare import bare
from benchmarks.mutants.known import Known, verdict

SOURCE = '''
"""What this is."""
__all__ = ["f"]

Kind = Literal["one", "two"]


@lru_cache(maxsize=8)
def f(x: int | None, by: float = 2.0) -> float:
    """What f does."""
    n: int = cast("int", x)
    assert n < 9, n
    if n < by:
        raise ValueError(f"{n} of these are too few")
    return sum(a * b for a, b in zip([n], ["one"], strict=True))
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What this is", "XX"),
        ("What f does.", ""),
        ('["f"]', "None"),
        ('"two"]', '"TWO"]'),
        ("maxsize=8", "maxsize=9"),
        ("int | None", "int & None"),
        ("-> float", "-> None"),
        ("n: int", "n: None"),
        ('cast("int", x)', "cast(None, x)"),
        ("n < 9", "n <= 9"),
        ('f"{n} of these are too few"', "None"),
        ("strict=True", "strict=False"),
        (", strict=True", ""),
    ],
)
def test_what_no_test_could_tell_is_left_out(old, new):
    assert old in SOURCE
    assert bare(SOURCE.replace(old, new)) == bare(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("n < by", "n <= by"),
        ("2.0", "3.0"),
        ("a * b", "a / b"),
        ('["one"]', '["XXoneXX"]'),
        ("ValueError", "TypeError"),
        ('cast("int", x)', 'cast("int", None)'),
        ("f(x:", "f(y:"),
        ("zip([n],", "zip([],"),
    ],
)
def test_what_a_test_could_tell_is_kept(old, new):
    assert old in SOURCE
    assert bare(SOURCE.replace(old, new)) != bare(SOURCE)


CODE = """SIZE: int = 3
NAME = "two"
def f(x, at=2):
    if x:
        y = g(
            x, SIZE)
    return y
"""


@pytest.mark.parametrize(
    ("line", "budget", "wanted"),
    [
        (5, 100, "a[1] b[1] a[2]"),  # one of each function first, the fastest first
        (6, 100, "a[1] b[1] a[2]"),  # the same statement
        (4, 100, "c a[1] b[1] a[2]"),  # without what it holds
        (5, 5, "a[1] b[1]"),
        (5, 0, "a[1]"),  # one in any case
        (7, 100, ""),  # nothing runs it
        (1, 100, "a[2] b[1]"),  # runs at the import: who reads the constant
        (2, 100, "d[two] c a[1] b[1] a[2]"),  # nobody does; what is named like it first
        (3, 100, "c a[1] b[1] d[two] a[2]"),
    ],
)
def test_a_mutant_is_tried_with_the_tests_that_run_its_statement(line, budget, wanted):
    seconds = {"t::a[1]": 1.0, "t::a[2]": 2.0, "t::b[1]": 3.0, "t::c": 0.1, "t::d[two]": 4.0}
    imports, those = ["", "t::d[two]"], ["t::a[1]", "t::a[2]", "t::b[1]", "t::failed"]
    run = {"1": imports, "2": imports, "3": imports, "4": ["t::c", *those], "5": those, "6": those[1:]}
    known = Known("", {}, {})
    known.add({"of": "", "seconds": seconds, "lines": {"f.py": run}})
    assert known.of("f.py", CODE, line, budget) == [f"t::{name}" for name in wanted.split()]
    assert known.of("g.py", CODE, line, budget) == []


@pytest.mark.parametrize(
    ("code", "word"),
    [(0, "survived"), (1, "killed"), (2, "killed"), (5, "survived"), (-signal.SIGXCPU, "time"),
     (-signal.SIGSEGV, "killed")],
)  # fmt: skip
def test_verdicts(code, word):
    assert verdict(code) == word
