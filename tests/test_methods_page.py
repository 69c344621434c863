"""The code of docs/methods.md runs as it stands."""

import re
from pathlib import Path

import pytest

from sparsight.scores import SCORES

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=["arithmetic", "add a score"])
def test_code_of_the_page_runs(code):
    known, found = dict(SCORES), {}
    assert len(code.splitlines()) <= 30
    try:
        exec(code, found)
    finally:
        new = SCORES.keys() - known.keys()
        for name in new:
            del SCORES[name]
    if "score" in code:
        assert new == {"edges"}
        assert found["plan"].methods[0].score == "edges"
        assert "early-exit.3.map.11" in found["plan"].weights
