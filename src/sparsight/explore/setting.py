"""One side of the page as plain data, and the method's settings it stands for."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsight.attach import family_in
from sparsight.errors import PlanError
from sparsight.methods import METHODS, SPOT, SVE, ClsTopK, EarlyExit, Settings, SparseViT, ToMe
from sparsight.plan import Plan
from sparsight.scores import SCORES as EVERY_SCORE

OWN = "as in the run"  # what the run does, whatever the other controls say
SCORES = tuple(name for name, score in EVERY_SCORE.items() if score.needs <= METHODS["sve"].provides)


@dataclass(frozen=True)
class Setting:
    """What one side of the page says."""

    method: str = "sve"
    keep: float = 1 / 8
    score: str = "sampled"
    layers: tuple[int, ...] = ()  # of SVE; none: every layer it can have


def methods_of(
    setting: Setting, model: nn.Module, run: Plan | None, completed: bool
) -> tuple[Settings, ...]:
    """Keep, as each method counts it; the run's own settings are taken whole.

    `completed`: tokens that leave are finished by a map, where the explorer fits one.
    """
    if setting.method == OWN and run:
        return run.at_any_size().methods
    always: dict[str, Any] = {"min_tokens": 0}
    if setting.method == "sve":
        own = run.find(SVE) if run else None
        layers = setting.layers or (own or SVE(layers=global_layers(model))).named_layers
        given = {"layers": layers, "keep": setting.keep, "score": setting.score}
        return (SVE.model_validate(given | always),)
    if setting.method == "early-exit":
        return (EarlyExit(keep=setting.keep, completion="map" if completed else "last", **always),)
    if setting.method == "tome":  # so that `keep` of the tokens are left at the end
        depth = len(family_in(model).blocks(model))
        return (ToMe(merge=min(0.5, max(1e-6, (1 - setting.keep) / depth)), **always),)
    if setting.method == "cls-topk":
        return (ClsTopK(keep=setting.keep, **always),)
    if setting.method == "sparsevit":
        return (SparseViT(sparsity=round(min(0.9, 1 - setting.keep), 2)),)
    if setting.method == "spot" and run and (spot := run.find(SPOT)):
        return (spot.model_copy(update={"rho": setting.keep} | always),)
    raise PlanError(f"{setting.method} is not for the explorer: it needs a run of it, or is no plan")


def global_layers(model: nn.Module) -> tuple[int, ...]:
    """The layers SVE can have."""
    return family_in(model).global_layers(model)


def layers_from(text: str, available: tuple[int, ...]) -> tuple[int, ...]:
    """Layer numbers from "4-11" or "3, 4, 8"; "" or "all" means every one that can be."""
    found: list[int] = []
    for part in text.replace("all", "").replace(" ", "").split(","):
        if part:
            first, _, last = part.partition("-")
            if not (first.isdigit() and (last or first).isdigit()):
                raise PlanError(f"layers {text!r}: not like 4-11 or 3, 4, 8")
            found += range(int(first), int(last or first) + 1)
    if missing := sorted(set(found) - set(available)):
        raise PlanError(f"layer {missing[0]} cannot be sparse here: choose from {available}")
    return tuple(sorted(set(found)))
