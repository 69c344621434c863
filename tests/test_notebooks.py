"""The notebooks of examples/ run from top to bottom, and are kept without what they printed."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
LONGEST_S = 240  # of one cell, on a busy machine


def test_there_are_notebooks():
    assert {book.stem for book in BOOKS} >= {
        "encode_and_search", "export", "first_look", "own_model", "own_score",
    }  # fmt: skip


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_notebook_is_kept_without_outputs(book):
    for cell in json.loads(book.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs"), "clear the outputs before you commit it"
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_notebook_runs(book, tmp_path):
    for package in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(package, reason=f"missing: {package} (pip install 'sparsight[docs]')")
    import nbformat
    from nbclient import NotebookClient

    found = nbformat.read(book, as_version=4)
    nbformat.validate(found)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(found, timeout=LONGEST_S, kernel_name="python3", resources=resources).execute()
