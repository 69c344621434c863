"""What a run folder holds, and what it lacks.  It may be incomplete, or of another version."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsight.errors import PlanError, SparsightError
from sparsight.plan_v1 import upgraded
from sparsight.run import COMMAND_FILE, LOOK_FILE, LOSSES_FILE, PLAN_FILE

MAX_BYTES = 256_000_000  # a file of a run is far smaller

# file -> key here, what it holds, how to get it
FILES = {
    "analysis.json": ("analysis", "where attention is sparse", "sparsight analyze or optimize"),
    "analysis-sparse.json": ("analysis_sparse", "", ""),
    LOSSES_FILE: ("losses", "the loss of the training", "sparsight optimize --distill"),
    "measure.json": ("measure", "time, memory and fidelity", "sparsight measure RUN --images DIR"),
    "demo.json": ("demo", "", ""),
    "front.json": ("front", "quality against latency", "sparsight optimize --speedup, or compare"),
    "compare.json": ("comparison", "", ""),
}


@dataclass
class Run:
    """A run as far as it is there; `missing` has a sentence for each piece that is not."""

    place: Path
    plan: dict[str, Any] | None = None
    parts: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, Any] = field(default_factory=dict)  # evaluations, by task
    exports: dict[str, Any] = field(default_factory=dict)  # comparisons of exported files, by format
    looks: list[dict[str, Any]] = field(default_factory=list)
    command: str | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def side_by_side(self) -> dict[str, Any] | None:
        """Protocol and rows of settings that were run side by side, if any were."""
        found = (self.parts.get(key) for key in ("comparison", "front", "demo"))
        return next((result for result in found if result), None)

    @property
    def methods(self) -> dict[str, dict[str, Any]]:
        """The settings of each method of the plan by its name, {} without one."""
        return {one["type"]: one["data"] for one in (self.plan or {}).get("methods", ())}

    @property
    def sve(self) -> dict[str, Any]:
        """SVE's settings, {} without it."""
        return self.methods.get("sve", {})

    @property
    def sparse_layers(self) -> set[int]:
        """Those with sparse attention."""
        layers = self.sve.get("layers") or ()
        return set() if isinstance(layers, str) else set(layers)

    @property
    def completion(self) -> list[dict[str, Any]]:
        """What maps repaired, a row for each, in the order of the layers."""
        return list((self.plan or {}).get("recipe", {}).get("completion", ()))


def read_run(place: Path) -> Run:
    """All that a run folder or the JSON of a comparison holds; SparsightError if that is nothing."""
    run = Run(place)
    if place.is_file():
        run.parts["comparison"] = _json(place, run)
    elif place.is_dir():
        _read_folder(place, run)
    else:
        raise SparsightError(f"there is no run at {place}")
    if not (run.plan or any(run.parts.values()) or run.tasks):
        why = f" ({run.missing[0]})" if run.missing else ""
        raise SparsightError(
            f"{place} holds nothing to report{why}: run sparsight optimize or demo first"
        )
    return run


def _read_folder(place: Path, run: Run) -> None:
    run.plan = _plan(place, run)
    absent: dict[str, tuple[str, str]] = {}
    for name, (key, holds, how) in FILES.items():
        found = _json(place / name, run)
        if found is not None:
            run.parts[key] = found
        elif holds and not (place / name).exists():
            absent[key] = (holds, how)
    if run.side_by_side:
        absent.pop("front", None)
    if not {"distillation", "adaptation", "relevance"} & set((run.plan or {}).get("recipe", {})):
        absent.pop("losses", None)  # there was none, so nothing is missing
    for holds, how in absent.values():
        run.missing.append(f"Not measured: {holds} ({how}).")
    for path in sorted(place.glob("evaluate-*.json")):
        if (found := _json(path, run)) is not None:
            run.tasks[path.stem.removeprefix("evaluate-")] = found
    for path in sorted(place.glob("parity-*.json")):
        if (found := _json(path, run)) is not None:
            run.exports[path.stem.removeprefix("parity-")] = found
    if (place / COMMAND_FILE).is_file():
        run.command = (place / COMMAND_FILE).read_text(encoding="utf-8", errors="replace").strip()
    run.looks = read_looks(place / LOOK_FILE, run)


def _plan(place: Path, run: Run) -> dict[str, Any] | None:
    """The plan's data as this version has it; None, with a sentence, if there is none to be read."""
    try:
        envelope = upgraded(_json(place / PLAN_FILE, run), PLAN_FILE)
    except PlanError as error:
        run.missing.append(f"Not told: what was done ({error}).")
        return None
    found = envelope.get("data") if isinstance(envelope, dict) else None
    if isinstance(found, dict):
        return found
    run.missing.append(
        "There is no plan.json: the run was interrupted; the same command goes on from there."
    )
    return None


def _json(path: Path, run: Run) -> Any:
    """The content of a JSON file; None, with a sentence, if it cannot be read."""
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it is larger than any result")
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        run.missing.append(f"{path.name} cannot be read: {error}.")
        return None


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def read_looks(path: Path, run: Run) -> list[dict[str, Any]]:
    """The pictures of `stages.look`: facts of each, and its maps as arrays under "maps"."""
    if not path.is_file():
        run.missing.append("No picture was looked at (sparsight measure RUN --images DIR).")
        return []
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            looks = json.loads((file.metadata() or {})["looks"])
            for look in looks:
                look["maps"] = {}
            for key in file.keys():  # noqa: SIM118  (not a dictionary)
                number, _, name = key.partition("/")
                looks[int(number)]["maps"][name] = file.get_tensor(key)
    except (SafetensorError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
        run.missing.append(f"{path.name} cannot be read: {error}.")
        return []
    return looks
