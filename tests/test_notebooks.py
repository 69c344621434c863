"""The notebooks of examples/ run from top to bottom, and are kept without what they printed."""

import json
from pathlib import Path

import jaxtyping
import pytest

from sparsight.scores import SCORES

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
LONGEST_S = 240  # of one cell, on a busy machine
# Pictures are smaller here, as nothing hangs on it; above 1024 tokens where layers run dense below.
SMALLER = {
    "first_look": ("(768, 768)", "(544, 544)"),
    "own_model": ("(512, 512)", "(256, 256)"),
    "own_score": ("(512, 512)", "(256, 256)"),
}
IN_A_KERNEL = "encode_and_search"  # as a user runs it, all loaded anew; the others where all is loaded


def test_there_are_notebooks():
    assert {book.stem for book in BOOKS} >= {
        "encode_and_search", "export", "first_look", "own_model", "own_score",
    }  # fmt: skip


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_notebook_is_kept_without_outputs(book):
    for cell in json.loads(book.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs"), "clear the outputs before you commit it"
        assert cell.get("execution_count") is None


@pytest.fixture
def as_in_a_kernel(monkeypatch, tmp_path):
    """Nothing of the tests is in the way, and nothing that a notebook changes stays."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    known = dict(SCORES)
    jaxtyping.config.update("jaxtyping_disable", True)  # the shape checks cannot be exported
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    SCORES.clear()
    SCORES.update(known)
    plt.close("all")


def code_of(book):
    """The cells with code; the notebook is checked against the format."""
    nbformat = pytest.importorskip(
        "nbformat", reason="missing: nbformat (pip install 'sparsight[docs]')"
    )
    found = nbformat.read(book, as_version=4)
    nbformat.validate(found)
    return found, [cell["source"] for cell in found["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize(
    "book", [book for book in BOOKS if book.stem != IN_A_KERNEL], ids=lambda book: book.stem
)
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("as_in_a_kernel")
def test_a_notebook_runs(book):
    names, (usual, smaller) = {"__name__": "__main__"}, SMALLER.get(book.stem, ("", ""))
    cells = code_of(book)[1]
    assert any(usual in cell for cell in cells)
    for number, cell in enumerate(cells):
        shown = cell.replace(usual, smaller) if usual else cell
        exec(compile(shown, f"{book.name}, cell {number}", "exec"), names)


def test_a_notebook_runs_in_a_kernel(tmp_path):
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package, reason=f"missing: {package} (pip install 'sparsight[docs]')")
    from nbclient import NotebookClient

    found, _ = code_of(FOLDER / f"{IN_A_KERNEL}.ipynb")
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(found, timeout=LONGEST_S, kernel_name="python3", resources=resources).execute()
