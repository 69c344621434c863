"""Which files of a run are for others, written into a folder as they will be on the hub.

    plan.json, weights-<hash>.safetensors   the run itself, for its base as others know it
    measure.json, evaluate-TASK.json        its figures, without names of pictures, data and classes
    config.json                             base and fingerprint, and the digest of every file here
    README.md                               the card

and with pictures look.safetensors, report.html, and names in the results.  Never: command.txt, which has
places of this machine, and what an unfinished run needs to go on.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from sparsight import __version__
from sparsight.errors import SparsightError
from sparsight.files import write_atomically, write_json, write_text
from sparsight.hub import CONFIG_FILE, digest
from sparsight.plan import Plan
from sparsight.report.data import Run, read_run
from sparsight.run import LOOK_FILE, load, save_plan
from sparsight.share import clean
from sparsight.share.base import Base, base_of
from sparsight.share.card import card_of
from sparsight.share.leaks import check_nothing_leaks

CARD_FILE = "README.md"


@dataclass
class Contents:
    """What will be uploaded, and what there is to say of it before."""

    folder: Path
    base: Base
    notes: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, int]:
        """Bytes by name."""
        return {path.name: path.stat().st_size for path in sorted(self.folder.iterdir())}


def contents_of(run: Path, repo: str, folder: Path, base: str | None, pictures: bool) -> Contents:
    """Write what is for others of `run` into the empty `folder`; SparsightError if it may not leave."""
    plan = load(run)
    contents = Contents(folder, known := base_of(plan, base))
    contents.notes += [known.note] if known.note else []
    found = read_run(run)
    contents.notes += [why for why in found.missing if "cannot be read" in why]
    published = clean.plan_for(plan, known.source)
    save_plan(published, folder)
    try:
        _results(found, plan, contents, pictures)
        write_text(folder / CARD_FILE, card_of(read_run(folder), published, known, repo))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, TemplateError) as error:
        raise SparsightError(
            f"a result in {run} is not what this version writes ({type(error).__name__}: {error}): "
            "make it anew, or remove it"
        ) from error
    _config(folder, published, known)
    check_nothing_leaks(folder, run, () if pictures else _pictures_in(found))
    return contents


def _results(found: Run, plan: Plan, contents: Contents, pictures: bool) -> None:
    """What was measured of this very plan."""
    folder, source = contents.folder, contents.base.source
    if (measured := found.parts.get("measure")) and _is_of(measured, plan, "measure.json", contents):
        write_json(folder / "measure.json", clean.measured_for(measured, source, pictures))
    for task, result in found.tasks.items():
        name = f"evaluate-{task}.json"
        if _is_of(result, plan, name, contents):
            write_json(folder / name, clean.judged_for(result, source, pictures))
    if pictures and found.looks:
        from sparsight.report import write_report

        _save_looks(found.looks, folder / LOOK_FILE)
        write_report(folder)
        contents.notes.append(f"{len(found.looks)} pictures are shown in {LOOK_FILE} and report.html")
    elif pictures:
        contents.notes.append("there are no pictures in the run: sparsight measure RUN --images DIR")


def _is_of(result: dict[str, Any], plan: Plan, name: str, contents: Contents) -> bool:
    """Whether a result is of the plan as it is now; of layers that are not named, that is not known."""
    unnamed = any(isinstance(getattr(method, "layers", None), str) for method in plan.methods)
    if unnamed or result["protocol"].get("plan", plan.label) == plan.label:
        return True
    contents.notes.append(f"{name} is of other settings than plan.json, and left out: measure again")
    return False


def _save_looks(looks: list[dict[str, Any]], path: Path) -> None:
    """The pictures by their names alone, wherever they lie."""
    from safetensors.numpy import save_file

    tensors = {
        f"{n}/{key}": value for n, look in enumerate(looks) for key, value in look["maps"].items()
    }
    facts = [
        {key: value for key, value in look.items() if key != "maps"}
        | {"name": clean.named(look["name"], n, names=True)}
        for n, look in enumerate(looks)
    ]
    header = {"looks": json.dumps(facts)}
    write_atomically(path, lambda place: save_file(tensors, place, metadata=header))


def _config(folder: Path, plan: Plan, base: Base) -> None:
    """Written last: the digest of every other file."""
    files = {path.name: digest(path) for path in sorted(folder.iterdir())}
    methods = plan.name.split(" + ")
    write_json(
        folder / CONFIG_FILE,
        {"library_name": "sparsight", "sparsight_version": __version__, "methods": methods,
         "base": asdict(base), "files": files},
    )  # fmt: skip


def _pictures_in(found: Run) -> list[str]:
    """Every name of a picture that the results hold."""
    fidelity = (found.parts.get("measure") or {}).get("fidelity") or {}
    rows = [*fidelity.get("by_image", ()), *found.looks]
    worst = [row for result in found.tasks.values() for row in result.get("worst", ())]
    return [str(row["name"]) for row in rows] + [str(row["image"]) for row in worst]
