"""A run folder: `plan.json`, and the changed tensors alone as safetensors.  No pickle anywhere.

    plan.json                    the plan; names the weights file and each tensor in it
    weights-<hash>.safetensors   changed weights ("model.<key>") and projectors; absent if there are none
    analysis.json, measure.json, losses.json, look.safetensors  what the stages found, for the report
    command.txt, report.html     how it was made, and the page it ends in

The weights are written first and under a name of their own, the plan last and atomically: whatever
interrupts a save, the folder holds the old run or the new one.

`hub:OWNER/NAME[@REVISION]` stands for a folder wherever a run is read.
"""

import hashlib
from os import PathLike
from pathlib import Path

from sparsight import __version__
from sparsight.arguments import checked
from sparsight.errors import HubError, PlanError
from sparsight.files import write_atomically, write_text
from sparsight.hub import PLAN_FILE, Reference, check_digests, fetch, is_snapshot, may_link, referred
from sparsight.plan import Plan
from sparsight.plan_v1 import tensor_named

COMMAND_FILE = "command.txt"
LOSSES_FILE = "losses.json"  # of every step of the distillation
LOOK_FILE = "look.safetensors"  # single pictures, of stages/look.py


def save_plan(plan: Plan, folder: "str | PathLike[str]") -> Path:
    """Write a plan and its tensors into `folder`; returns the folder."""
    from safetensors.torch import save_file

    folder, text = Path(folder), plan.to_json()
    if is_snapshot(folder):
        raise PlanError(
            f"{folder} is in the hub's cache, where nothing is written: choose another folder"
        )
    if plan.weights:
        tensors = {k: v.detach().cpu().contiguous() for k, v in plan.weights.items()}
        write_atomically(folder / weights_file(text), lambda path: save_file(tensors, path))
    write_text(folder / PLAN_FILE, text)
    for old in folder.glob("weights-*.safetensors"):
        if old.name != weights_file(text):
            old.unlink()
    return folder


@checked
def load(folder: "str | PathLike[str]") -> Plan:
    """Read a plan with its tensors, from a folder or the hub (`hub:OWNER/NAME[@REVISION]`).

    Raises PlanError that says what is missing, damaged or hostile, HubError if it cannot be fetched.
    """
    reference = referred(folder)
    return _read(fetch(reference) if reference else Path(folder))


@checked
def from_pretrained(repo: str, revision: str | None = None) -> Plan:
    """The plan of a run on the hub, which `apply` makes a model sparse by.

    `repo`       OWNER/NAME; it is fetched where the cache does not have it
    `revision`   a commit, tag or branch; of `main` the latest unless given

    Raises HubError if it cannot be fetched, PlanError if what is there is damaged.
    """
    try:
        return _read(fetch(Reference.read(repo, revision)))
    except HubError as error:
        if Path(repo).is_dir():
            raise HubError(f"{error} (the folder {repo} here is read with sparsight.load)") from None
        raise


def is_run(place: "str | PathLike[str]") -> bool:
    """Whether `place` is a run and no model: a folder with a plan in it, or on the hub."""
    return referred(place) is not None or (Path(place) / PLAN_FILE).is_file()


def _read(folder: Path) -> Plan:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not folder.is_dir():
        raise PlanError(f"there is no run folder at {folder}")
    file = inside(folder, PLAN_FILE)
    check_digests(folder, PLAN_FILE)
    plan = Plan.read(file)
    _check_version(plan, folder)
    if not plan.tensors:
        return plan
    path = inside(folder, weights_file(file.read_text(encoding="utf-8")))
    check_digests(folder, path.name)
    try:
        tensors = {tensor_named(name): value for name, value in load_file(path).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise PlanError(f"{path} is damaged: {error}") from None
    for name in sorted(plan.tensors.keys() | tensors.keys()):
        if name not in tensors or name not in plan.tensors:
            lacking = path.name if name not in tensors else PLAN_FILE
            raise PlanError(f"{folder}: tensor {name!r} is missing from {lacking}")
        planned, found = plan.tensors[name], tensors[name]
        if planned.shape != tuple(found.shape) or f"torch.{planned.dtype}" != str(found.dtype):
            raise PlanError(
                f"{folder}: tensor {name!r} is {planned.dtype} {planned.shape} in {PLAN_FILE} and "
                f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)} in {path.name}"
            )
    plan.weights.update(tensors)
    return plan


def _check_version(plan: Plan, folder: Path) -> None:
    """Refuse a plan of a newer release, whose settings may mean something else."""
    made_by = plan.versions.get("sparsight")
    if made_by is None:
        return
    try:
        newer = _release(made_by) > _release(__version__)
    except ValueError:
        raise PlanError(f"{folder}: versions.sparsight is {made_by!r}, which is no version") from None
    if newer:
        raise PlanError(
            f"{folder} was made by sparsight {made_by}; this is {__version__}: upgrade to use it"
        )


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def weights_file(text: str) -> str:
    """The name of a plan's weights file, from the text of its plan.json: another plan, another file.

    From the text as it stands in the folder, because a later release may write more settings.
    """
    return f"weights-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, if that is a file in the folder itself and no link out of it.

    In the hub's cache every file is a link, into the blobs of its repository alone.
    """
    path = folder / name
    if not path.exists():
        raise PlanError(f"{folder} is no complete run: {name} is missing")
    is_own = path.resolve().parent == folder.resolve() or may_link(path)
    if not (is_own and path.is_file()):
        raise PlanError(f"{path} is not a plain file inside the run folder")
    return path
