"""Plans of version 1, as the first edition wrote them: read as those of version 2, or refused.

There a plan had one method, SVE's score was called `scorer`, and MLP routing was a part of SVE, with
maps from tokens normalised in another way: such a plan is made anew.
"""

from typing import Any

from sparsight.errors import PlanError

ROUTING = {"mlp_keep": 1.0, "mlp_by": "attention", "mlp_rest": "residual"}
SVE_NAMES = {"sve.projector.": "projector"}  # "sve.projector.3" is "sve.3.projector" now


def upgraded(envelope: Any, where: str) -> Any:
    """The content of a plan.json; one of version 1 as version 2 has it."""
    if not isinstance(envelope, dict) or envelope.get("version") != 1:
        return envelope
    data = envelope.get("data")
    method = data.get("method") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(method, dict):
        raise PlanError(f"{where} is of version 1 and damaged: key 'method' must be an object")
    settings = method.get("data")
    if method.get("type") == "sve" and isinstance(settings, dict):
        settings = dict(settings)
        _check_unrouted(settings, data, where)
        if "scorer" in settings:
            settings["score"] = settings.pop("scorer")
    changed = {key: value for key, value in data.items() if key != "method"}
    changed["methods"] = [method | {"version": 2, "data": settings}]
    if isinstance(tensors := data.get("tensors"), dict):
        changed["tensors"] = {tensor_named(name): info for name, info in tensors.items()}
    return envelope | {"version": 2, "data": changed}


def tensor_named(name: str) -> str:
    """What a tensor of version 1 is called now."""
    for old, short in SVE_NAMES.items():
        if name.startswith(old):
            return f"sve.{name.removeprefix(old)}.{short}"
    return name


def _check_unrouted(settings: dict[str, Any], data: dict[str, Any], where: str) -> None:
    """Take MLP routing out of the settings of SVE; PlanError if it was in use."""
    given = {name: settings.pop(name, usual) for name, usual in ROUTING.items()}
    keep = given["mlp_keep"]
    if keep == 1 or (isinstance(keep, list) and all(share == 1 for share in keep)):
        return
    model = data.get("source") or "MODEL"
    raise PlanError(
        f"{where} is of version 1 and lets tokens skip the MLP by maps that no longer fit: make it anew "
        f"with sparsight optimize {model} --images DIR --method sve --method mlp-routing --out RUN"
    )
