"""The tables of the command line."""

import json

import pytest
from conftest import make_images, make_model

import sparsight
from sparsight import tables
from sparsight.plan import Plan
from sparsight.stages.calibrate import analyze


def cells(text):
    """Rows of a table by their first cell."""
    rows = [
        [c.strip() for c in line.strip("│ ").split("│")] for line in text.splitlines() if "│" in line
    ]
    return {row[0]: row[1:] for row in rows}


def heads(text):
    line = next(line for line in text.splitlines() if line.startswith("┃"))
    return [cell.strip() for cell in line.strip("┃").split("┃")][1:]


def test_how_linear_the_rest_is_has_a_column_where_it_is_known(capsys):
    model = make_model("augreg")
    found = analyze(model, make_images(model, batch=2, grid=(10, 10)))
    tables.show_analysis(found)
    text = capsys.readouterr().out
    at = heads(text).index("rest, linear")
    rows = cells(text)
    assert [rows[str(n)][at] for n in range(3)] == [
        f"{found.layers[n].linear_rest:.3f}" for n in range(3)
    ]
    assert rows["3"][at] == "-"  # after the last layer there is no rest
    assert [len(row) for row in rows.values()] == [len(heads(text))] * 4

    few = analyze(model, make_images(model, batch=1, grid=(4, 4)))  # too few tokens for a map of 49 rows
    tables.show_analysis(few)
    assert "rest, linear" not in capsys.readouterr().out


def test_what_completion_repaired_has_a_row_for_each_map(capsys):
    completion = [
        {"method": "sve", "layer": 2, "left": 0.123, "tokens": 700},
        {"method": "early-exit", "layer": 3, "left": 0.5, "tokens": 900},
    ]
    plan = Plan(
        methods=(sparsight.SVE(layers=(2,), completion="map"), sparsight.EarlyExit(after=(2,))),
        recipe={"completion": completion}, reasons=("a reason",),
    )  # fmt: skip
    tables.show_plan(plan)
    text = capsys.readouterr().out
    rows = cells(text)
    assert rows["2"] == ["sve", "100 %", "12.3 %", "87.7 %", "700"]
    assert rows["3"] == ["early-exit", "100 %", "50.0 %", "50.0 %", "900"]
    assert "- a reason" in text
    assert "role" not in text  # nothing is known of single layers


@pytest.mark.parametrize("known", [True, False])
def test_layers_without_completion_are_one_table(known, capsys):
    row = {"layer": 1, "sparse": True, "role": "predicts", "indicator": 0.5}
    data = json.loads(Plan(methods=(sparsight.SVE(layers=(1,)),)).to_json())
    data["data"]["layers"] = [row] * known
    tables.show_plan(Plan.from_json(json.dumps(data)))
    text = capsys.readouterr().out
    assert ("predicts" in text) is known
    assert "completion:" not in text
