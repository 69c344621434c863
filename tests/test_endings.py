"""How the command line ends: one sentence, and an exit code that says whose matter it is."""

import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from sparsight.cli import app
from sparsight.errors import SparsightError
from sparsight.methods import SVE

VERB = "sparsight.models.load_model"  # what the verb does first


def inside(package, source):
    """A function of `package` that does what `source` says."""
    names = {"__name__": f"{package}.inside", "torch": torch, "SVE": SVE}
    exec(f"def call(*args):\n    {source}", names)
    return names["call"]


def refused(*args):
    try:
        raise ValueError("deep down")
    except ValueError:
        raise SparsightError("no such thing") from None


def calls(package, inner):
    """A function of `package` that calls another."""
    names = {"__name__": f"{package}.around", "inner": inner}
    exec("def call(*args):\n    inner()", names)
    return names["call"]


ENDINGS = {  # what is raised, where -> exit code, and what is said
    "on purpose": (refused, 1, "sparsight: no such thing"),
    "the system": (inside("sparsight", "open('/no/such/file')"), 1, "the system refused: "),
    "another library": (inside("timm", "raise KeyError('head')"), 1, "timm failed with KeyError: "),
    "torch, for another library": (
        calls("sparsight", inside("transformers.models", "torch.ones(2) @ torch.ones(3)")),
        1,
        "transformers failed with RuntimeError: ",
    ),
    "Python, for another library": (
        calls("sparsight", inside("PIL", "int('x')")),
        1,
        "PIL failed with ValueError: ",
    ),
    "our own": (inside("sparsight", "{}['x']"), 70, "fault of sparsight, please report it: Key"),
    "torch, for us": (
        inside("sparsight", "torch.ones(2) @ torch.ones(3)"), 70, "this is a fault of sparsight",
    ),
    "our own, called back by a library": (
        calls("sparsight", calls("torch", calls("accelerate", inside("sparsight", "None.x")))),
        70,
        "this is a fault of sparsight",
    ),
    "no memory": (inside("sparsight", "raise MemoryError"), 1, "out of memory: take a lower resolution"),
    "no memory for torch": (
        inside("sparsight", "torch.empty(10**15)"), 1, "out of memory: take a lower resolution",
    ),
    "settings out of range": (
        inside("sparsight", "SVE(keep='x')"),
        1,
        "sparsight: SVE: keep: Input should be",
    ),
    "interrupted": (inside("sparsight", "raise KeyboardInterrupt"), 130, "sparsight: interrupted"),
}  # fmt: skip


@pytest.fixture
def ended(monkeypatch):
    """Run a verb in which something is raised."""

    def call(what, *options):
        monkeypatch.setattr(VERB, what)
        return CliRunner().invoke(app, [*options, "doctor", "demo"])

    return call


@pytest.mark.parametrize("name", ENDINGS)
def test_whatever_goes_wrong_is_one_sentence_and_a_code(ended, name):
    what, code, says = ENDINGS[name]
    done = ended(what)
    assert done.exit_code == code
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) <= 300 + len("sparsight: \n")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert done.stderr.endswith("; run with --verbose for the details\n") == (
        "fault" in says or "failed" in says
    )


def test_a_long_error_is_cut(ended):
    done = ended(inside("timm", "raise ValueError('word\\n' * 5000)"))
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) <= 300 + len("sparsight: \n")
    assert done.stderr.endswith("...; run with --verbose for the details\n")


def test_verbose_shows_where_wherever_it_stands(ended):
    before = ended(refused, "--verbose")
    after = CliRunner().invoke(app, ["doctor", "demo", "--verbose"])
    for done in (before, after):
        assert done.exit_code == 1
        assert "Traceback" in done.stderr
        assert "ValueError: deep down" in done.stderr  # what a sentence stands for, too
        assert done.stderr.endswith("sparsight: no such thing\n")


def test_wrong_usage_is_2():
    for words in (["no-such-verb"], ["doctor", "demo", "--no-such-option"], ["doctor"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2, words
        assert "Traceback" not in done.stderr
    assert "--verbose" in CliRunner().invoke(app, ["--help"]).stdout


def test_the_process_ends_with_the_code():
    """As a shell sees it."""
    ran = [sys.executable, "-m", "sparsight", "doctor", "no-such-model"]
    done = subprocess.run(ran, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sparsight: MODEL 'no-such-model' is neither")
