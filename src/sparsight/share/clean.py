"""What of a run's results is for others: figures and settings, taken one by one.

Names of pictures, data and classes, messages and places are the user's own: whatever is not listed
here is left out.
"""

from pathlib import PurePath
from typing import Any

from sparsight.plan import Plan

PROTOCOL = (
    "machine", "versions", "revision", "device", "dtype", "threads", "timing", "steady_allocator",
    "baseline", "repeats", "resolution", "batch", "plan",
)  # fmt: skip
JUDGED = (*PROTOCOL, "seed", "images", "metric", "interval")
RAN_DENSE = "ran dense"  # how a note of `evaluate` ends that has nothing of the user's in it
RECIPE = (
    "module", "how", "completion", "crossover", "distillation", "adaptation", "relevance", "search",
    "images", "skipped", "calibration_images",
)  # fmt: skip


def plan_for(plan: Plan, source: str | None) -> Plan:
    """The plan with its base as others know it."""
    recipe = {key: plan.recipe[key] for key in RECIPE if key in plan.recipe}
    return plan.with_(source=source, recipe=recipe)


def measured_for(measured: dict[str, Any], source: str | None, names: bool) -> dict[str, Any]:
    """Of measure.json; pictures by their names only if `names`."""
    found = {
        "protocol": _some(measured["protocol"], PROTOCOL) | {"source": source},
        "cases": measured["cases"],
    }
    if fidelity := measured.get("fidelity"):
        rows = [row | {"name": named(row["name"], row["place"], names)} for row in fidelity["by_image"]]
        found["fidelity"] = fidelity | {"skipped": [], "by_image": rows}
    return found


def judged_for(result: dict[str, Any], source: str | None, names: bool) -> dict[str, Any]:
    """Of evaluate-TASK.json; classes and pictures by their names only if `names`."""
    worst = [
        row | {"image": named(row["image"], place, names)} for place, row in enumerate(result["worst"])
    ]
    return {
        "task": result["task"],
        "protocol": _some(result["protocol"], (*JUDGED, *["data"] * names)) | {"source": source},
        "scores": result["scores"],
        "details": result["details"] if names else [],
        "shares": result["shares"] if names else {},
        "worst": worst, "skipped": [],
        "notes": [note for note in result["notes"] if note.endswith(RAN_DENSE)],
    }  # fmt: skip


def named(name: str, place: int, names: bool) -> str:
    """What to call a picture: never by where it lies on this machine."""
    return PurePath(name).name if names else f"picture {place}"


def _some(found: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: found[key] for key in keys if key in found}
