"""Is it worth it here, what to try first, and by which command?  In plain words."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

from sparsight.methods import SVE, Settings, method_named, method_of
from sparsight.stages.doctor.ways import OURS, Way

CLEARLY, BARELY = 1.25, 1.1  # estimates from single blocks miss by several per cent


def judge(
    ways: Sequence[Way], speedups: dict[str, float], pays: dict[str, int | None], tokens: int,
    forms: Sequence[dict[str, Any]], size: str,
) -> dict[str, Any]:  # fmt: skip
    """`worth` ("yes", "little", "no" or "unknown"), the reason in words, and the way to try first.

    `speedups` are estimates over the whole dense model; `pays` the tokens from which on a way gains.
    """
    ours = [way for way in ways if way.name in OURS and not way.refused]
    if not ours:
        return {"worth": "no", "why": "no method of sparsight fits this model as it is", "first": None}
    known = [way for way in ours if way.name in speedups]
    best = max(known, key=lambda way: speedups[way.name]) if known else min(ours, key=_gflops)
    faster = _faster_form(forms)
    if not known:
        why = (
            "single sparse blocks take too long here for this check; FLOPs alone say where to start, "
            "and `sparsight compare` measures it"
        )
        return {"worth": "unknown", "why": why + faster, "first": best.name}
    gain = speedups[best.name]
    worth = "yes" if gain >= CLEARLY else "little" if gain >= BARELY else "no"
    where = " in every layer that can" if best.name == "sve" else ""  # `optimize` may choose fewer
    why = f"{best.name}{where} makes the whole model about {gain:.2f}x as fast at {size} px" + (
        "" if worth == "yes" else ", which is little" if worth == "little" else ", which is too little"
    )
    start = pays.get(best.name)
    if worth == "no" and start is not None and start > tokens:
        why += f"; it gains from about {start} tokens on, so a higher resolution may pay"
    return {"worth": worth, "why": why + faster, "first": best.name}


def _gflops(way: Way) -> float:
    return way.gflops or float("inf")


def _faster_form(forms: Sequence[dict[str, Any]]) -> str:
    """A hint, where another number format is clearly faster."""
    best = max(forms, key=lambda form: form["speedup"] or 0.0)
    if (best["speedup"] or 0.0) < BARELY:
        return ""
    return (
        f"; the dense model itself is about {best['speedup']:.2f}x as fast in {best['form']}: if that "
        "is exact enough for you, start there and look again"
    )


def first_settings(way: Way) -> tuple[Settings, ...]:
    """The settings to give `optimize`, which chooses SVE's layers itself where SVE is alone."""
    if len(way.methods) == 1 and isinstance(way.methods[0], SVE):
        return (SVE().completed(),)
    return tuple(config.completed() for config in way.methods)


def plain(settings: Sequence[Settings]) -> list[dict[str, Any]]:
    """Settings as plain data, with the name of each one's method."""
    return [{"method": method_of(s).name, "settings": s.model_dump(mode="json")} for s in settings]


def in_python(settings: Sequence[Settings], images: str, module: str | None) -> str:
    """The call that makes a plan of them."""
    methods = ", ".join(f"sparsight.{_spelt(config)}" for config in settings)
    inside = f", module={module!r}" if module else ""
    return f'sparsight.optimize(model, {images!r}, [{methods}], out="runs/first"{inside})'


def _spelt(config: Settings) -> str:
    given = config.model_dump(exclude_defaults=True)
    return f"{type(config).__name__}({', '.join(f'{k}={v!r}' for k, v in given.items())})"


def command(found: dict[str, Any], options: Sequence[str], images: str) -> str:
    """The same for a shell, of what `doctor` found; `options` say how its "source" is loaded."""
    height, width = found["resolution"]
    words = ["sparsight", "optimize", found["source"], *options, "--images", images]
    words += ["--resolution", str(height) if height == width else f"{height}x{width}"]
    for first in found["verdict"]["settings"]:
        words += ["--method", first["method"]]
        usual = method_named(first["method"]).config().completed().model_dump(mode="json")
        for key, value in first["settings"].items():
            if value != usual[key]:  # the command line starts from those
                words += ["--set", f"{first['method']}.{key}={json.dumps(value, separators=(',', ':'))}"]
    return shlex.join([*words, "--out", "runs/first"])
