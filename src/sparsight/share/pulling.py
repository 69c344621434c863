"""A run from the hub as a folder of one's own, which the verbs may write into."""

import shutil
from os import PathLike
from pathlib import Path

from sparsight.arguments import checked
from sparsight.errors import SparsightError
from sparsight.files import check_writable
from sparsight.hub import Reference, fetch
from sparsight.run import LOOK_FILE, inside, load, save_plan

RESULTS = (
    "measure.json",
    "evaluate-*.json",
    LOOK_FILE,
)  # no page: it is made anew, as pages can run code


@checked
def pull(repo: str, out: "str | PathLike[str]", revision: str | None = None) -> Path:
    """Copy a run of the hub (OWNER/NAME[@REVISION]) into the folder `out`; returns it.

    Raises HubError if it cannot be fetched, PlanError if it is damaged.
    """
    folder = Path(out)
    if folder.is_dir() and any(folder.iterdir()):
        raise SparsightError(f"{folder} is not empty: choose another folder for the run")
    snapshot = fetch(Reference.read(repo, revision), also=RESULTS)
    plan = load(snapshot)
    files = [
        inside(snapshot, path.name) for pattern in RESULTS for path in sorted(snapshot.glob(pattern))
    ]
    check_writable(folder)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return save_plan(plan, folder)
