"""Render the tables of README.md and docs/ from benchmarks/results/ and the registry of families.

`python -m benchmarks.render` rewrites what stands between `<!-- results: NAME -->` and `<!-- end -->`
and draws the pictures; with `--check` it changes nothing and fails if a page is not up to date.  A
result that is missing, or is not what its table reads, is named, its table stays as it is, and the
command fails.  `--show NAME` prints one table; `--results DIR` takes results from elsewhere.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.paper import tables as paper
from benchmarks.tables import choice as choice_tables
from benchmarks.tables import coverage, encode, mutants, other, plots, quality, speed
from benchmarks.tables import method as method_tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- results: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
ENCODER = "../../src/sparsight/demo/weights/encoder.json"

TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "best": ("demo-cpu.json", quality.best),
    "demo": ("demo-cpu.json", quality.demo),
    "demo-short": ("demo-cpu.json", quality.short),
    "demo-analysis": ("analysis-demo.json", other.recall),
    "completion": ("completion-cpu.json", quality.completion),
    "by-resolution": ("completion-cpu.json", quality.by_resolution),
    "fuller": ("fuller-cpu.json", quality.fuller),
    "fuller-spans": ("fuller-cpu.json", quality.fuller_spans),
    "compare-demo": ("compare-demo.json", quality.comparison),
    "search-demo": ("search-demo.json", quality.front),
    "search-fast": ("search-fast.json", quality.front),
    "searched": ("search-fast.json", quality.searched),
    "patterns": ("patterns-cpu.json", quality.comparison),
    "camvid": ("camvid-cpu.json", quality.camvid),
    "scores": ("scores-cpu.json", quality.demo),
    "spot": ("spot-cpu.json", quality.spot),
    "swin": ("swin-cpu.json", quality.swin),
    "swin-ranking": ("swin-cpu.json", quality.swin_ranking),
    "against": ("against-cpu.json", speed.against),
    "export": ("export-cpu.json", speed.export),
    "fastest": ("export-cpu.json", speed.fastest),
    "attention": ("attention-cpu.json", speed.attention),
    "module-profile": ("attention-cpu.json", speed.module_profile),
    "attention-peers": ("attention-cpu.json", speed.peers),
    "shares": ("shares-cpu.json", speed.shares),
    "tiles": ("tiles-cpu.json", speed.tiles),
    "ladder": ("ladder-cpu-*.json", speed.ladder),
    "ladder-short": ("ladder-cpu-*.json", speed.ladder_short),
    "scaling": ("scaling-cpu.json", speed.scaling),
    "preparing": ("preparing-cpu.json", speed.preparing),
    "sam2": ("sam2-cpu.json", other.sam2),
    "sam2-windows": ("sam2-windows-cpu.json", other.sam2_windows),
    "salience": ("salience-cpu.json", other.salience),
    "salience-learning": ("salience-cpu.json", other.salience_learning),
    "quantised": ("quantised-cpu.json", other.quantised),
    "serving": ("serving-cpu.json", other.serving),
    "memory": ("memory-cpu.json", other.memory),
    "hostile": ("hostile.json", other.hostile),
    "kills": ("kills.json", other.kills),
    "mutants": ("mutants.json", mutants.killed),
    "mutants-survivors": ("mutants.json", mutants.survivors),
    "tasks": ("tasks-camvid-demo.json", other.tasks),
    "paper-table1": ("paper-cpu.json", lambda result: paper.costs(result, "table1")),
    "paper-table1-scores": ("paper-cpu.json", lambda result: paper.scores(result, "table1")),
    "paper-table2": ("paper-cpu.json", lambda result: paper.costs(result, "table2")),
    "paper-table2-scores": ("paper-cpu.json", lambda result: paper.scores(result, "table2")),
    "paper-table3": ("paper-cpu.json", paper.ablation),
    "paper-table4": ("attention-cpu.json", paper.module),
    "paper-figures": ("paper-cpu.json", paper.figures),
    "coverage": ("coverage.json", coverage.summary),
    "coverage-timm": ("coverage.json", coverage.of_timm),
    "coverage-transformers": ("coverage.json", coverage.of_transformers),
    **{
        f"figures-{page}": ("coverage.json", partial(coverage.figures, page=page))
        for page in coverage.PAGES
    },
    "sites": ("sites-cpu.json", coverage.speed),
    "doctor": ("doctor-cpu.json", other.doctor),
    "encode-once": ("encode-once-cpu.json", encode.once),
    "encode-rates": ("encode-rates-cpu.json", encode.rates),
    "encoder": (ENCODER, other.encoder),
}


# From the package itself, or from several results
REGISTRIES: dict[str, Callable[[], str]] = {
    "families": other.families, "methods": method_tables.methods, "score-registry": method_tables.scores,
    "choices": choice_tables.choices,
}  # fmt: skip


class NoTable(Exception):
    """Why there is none."""


def table(name: str, results: Path) -> str:
    """One table; NoTable if its result is missing or another than it reads."""
    if name in REGISTRIES:
        return REGISTRIES[name]()
    if name not in TABLES:
        raise NoTable(f"no table is called {name!r}")
    file, made = TABLES[name]
    path = (RESULTS if file == ENCODER else results) / file
    try:  # of several machines side by side, a table each
        found = sorted(path.parent.glob(path.name)) or [path]
        return "\n\n".join(made(json.loads(one.read_text(encoding="utf-8"))) for one in found)
    except OSError:
        raise NoTable(f"{name!r} needs {path}, which is not there: make it (CONTRIBUTING.md)") from None
    except (KeyError, IndexError, TypeError, ValueError, StopIteration) as error:
        what = f"{type(error).__name__}: {error}"
        raise NoTable(f"{name!r} cannot read {path} ({what}): make it anew (CONTRIBUTING.md)") from None


def rendered(text: str, results: Path, lacking: list[str]) -> str:
    """`text` with every block filled; blocks that have no table stay, and `lacking` says why."""

    def fill(match: re.Match[str]) -> str:
        try:
            return f"{match[1]}{table(match['name'], results)}\n{match[3]}"
        except NoTable as error:
            lacking.append(str(error))
            return match[0]

    return BLOCK.sub(fill, text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", help="print this table and change nothing")
    given = parser.parse_args()
    if given.show:
        try:
            print(table(given.show, given.results))
        except NoTable as error:
            sys.exit(str(error))
        sys.exit()
    stale, lacking = [], []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        old = page.read_text(encoding="utf-8")
        reasons: list[str] = []
        new = rendered(old, given.results, reasons)
        lacking += [f"{page.name}: {reason}" for reason in reasons]
        if new != old:
            stale.append(page.name)
            if not given.check:
                page.write_text(new, encoding="utf-8")
    if not given.check and (result := given.results / "scaling-cpu.json").exists():
        plots.scaling(result, result.with_suffix(".svg"))
    if given.check and stale:
        lacking.append(f"not up to date, run python -m benchmarks.render: {', '.join(stale)}")
    if lacking:
        sys.exit("\n".join(lacking))
