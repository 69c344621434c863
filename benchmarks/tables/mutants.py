"""Tables of the mutation check: how many changes of the code the tests notice, and which they do not."""

from collections import defaultdict
from typing import Any

from benchmarks.tables.markdown import rows

Rows = list[dict[str, Any]]


def killed(result: dict[str, Any]) -> str:
    """By part of the package, then by operator: mutants, and what became of them."""
    p, every = result["protocol"], result["rows"]
    note = (
        f"*{len(every)} of {p['candidates']} mutants, drawn by chance; mutmut {p['mutmut']}; "
        f"at {p['revision']}.*\n\n"
    )
    header = ["mutants of", "tried", "killed", "out of time", "survived", "share killed", "at first"]
    lines = [_line("**all**", every)]
    for kind, name in (("part", "`{}`"), ("operator", "{}")):
        groups = defaultdict(list)
        for row in every:
            groups[row["file"].split("/")[0] if kind == "part" else row["operator"]].append(row)
        lines += [_line(name.format(group.replace("_", " ")), groups[group]) for group in sorted(groups)]
    return note + rows(header, lines)


def _line(name: str, found: Rows) -> list[str]:
    killed, late, survived = (
        sum(row["verdict"] == verdict for row in found) for verdict in ("killed", "time", "survived")
    )
    first = sum(row["first"] != "survived" for row in found)
    shares = [f"{100 * count / len(found):.0f} %" for count in (killed + late, first)]
    return [name, *map(str, (len(found), killed, late, survived)), *shares]


def survivors(result: dict[str, Any]) -> str:
    """Each mutant that no test noticed: where, and the lines that go and come."""
    parts = [
        f"# {row['file']}, line {row['line']}, {row['tests']} tests\n" + "\n".join(row["diff"])
        for row in result["rows"]
        if row["verdict"] == "survived"
    ]
    return "```diff\n" + "\n\n".join(parts) + "\n```"
