"""Single blocks timed in place of the whole model, which may take long: one of each kind.

A unit is what is run together: one block, or a regular and a shifted one where windows are shifted.
Units that do the same work are of one kind, and one of them is timed for all.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.families import Family
from sparsight.methods import METHODS
from sparsight.methods.reduced import ReducingBlock
from sparsight.stages.doctor.clock import Clock
from sparsight.stages.doctor.outline import Call, Work
from sparsight.stages.doctor.ways import Way

Unit = tuple[int, ...]  # layers
Run = Callable[[], None]
Key = tuple[int, tuple[str, ...]]  # number of a kind, and the methods that change units of it


@dataclass
class Kind:
    """Units that do the same work."""

    units: tuple[Unit, ...]
    gflops: float  # of one
    ms: float | None = None  # of one, if it was timed


def kinds_of(units: Iterable[Unit], work: Work) -> list[Kind]:
    """All units of a model by kind, the kind with the most work in all first."""
    found: dict[Any, list[Unit]] = {}
    for unit in units:
        found.setdefault(tuple(work.calls[layer].key for layer in unit), []).append(unit)
    kinds = [Kind(tuple(units), sum(work.calls[n].gflops for n in units[0])) for units in found.values()]
    return sorted(kinds, key=lambda kind: -kind.gflops * len(kind.units))


def runner(blocks: Iterable[nn.Module], call: Call) -> Run:
    """Runs blocks one after another, on random tokens like those of `call`."""
    blocks = list(blocks)
    like = next(p for p in blocks[0].parameters())
    generator = torch.Generator(device=like.device).manual_seed(0)
    dtype = like.dtype if like.is_floating_point() else torch.float32

    def filled(value: Any) -> Any:
        if isinstance(value, Tensor):
            if not value.is_floating_point():
                return torch.ones(value.shape, dtype=value.dtype, device=like.device)
            noise = value.new_empty(value.shape, dtype=torch.float32, device=like.device)
            return noise.normal_(generator=generator).to(dtype)
        if isinstance(value, tuple | list):
            return type(value)(map(filled, value))
        return value

    (x, *more), kwargs = filled(call.args), {k: filled(v) for k, v in call.kwargs.items()}

    def run() -> None:
        given = x
        for block in blocks:
            out = block(given, *more, **kwargs)
            given = out if isinstance(out, Tensor) else out[0]

    return run


def of_unit(model: nn.Module, family: Family, unit: Unit, work: Work) -> Run:
    """Runs a unit of a model, dense or sparse."""
    return runner([family.blocks(model)[layer] for layer in unit], work.calls[unit[0]])


@dataclass
class Timed:
    """Milliseconds: of other arms, of units in each way, and what each way takes off the whole model."""

    others: dict[str, float] = field(default_factory=dict)
    probes: dict[tuple[str, Key], float] = field(default_factory=dict)
    saved: dict[str, float] = field(default_factory=dict)  # ways all of whose units could be timed

    def units(self, kind: int) -> dict[str, float]:
        """One unit of a kind, by the ways that are one method."""
        return {way: ms for (way, (number, _)), ms in self.probes.items() if number == kind
                and way in METHODS}  # fmt: skip


def time_kinds(
    dense: nn.Module, family: Family, ways: list[Way], work: Work, kinds: list[Kind], clock: Clock,
    others: dict[str, Run],
) -> Timed:  # fmt: skip
    """Time one unit of each kind, dense and in every way, and `others` with the first kind.

    Fills in `ms` of the kinds, as far as the budget goes.
    """
    timed, plans = Timed(), []
    for number, kind in enumerate(kinds):
        arms, gflops = {"dense": of_unit(dense, family, kind.units[0], work)}, {"dense": kind.gflops}
        keys: dict[str, tuple[str, Key]] = {}
        for way in sorted(ways, key=lambda way: way.gflops or 0):  # if not all fit, the best
            for key, unit in _probes(way, kinds).items():
                if key[0] == number and runs_alone(family.blocks(way.sparse)[unit[0]]):
                    keys[name := f"{way.name}, layer {unit[0]}"] = (way.name, key)
                    arms[name] = of_unit(way.sparse, family, unit, work)  # type: ignore[arg-type]
                    gflops[name] = kind.gflops * (way.gflops or 0) / work.gflops
        if number == 0:
            arms, gflops = arms | others, gflops | dict.fromkeys(others, kind.gflops)
        plans.append((kind, arms, gflops, keys))
    rest = sum(sum(gflops.values()) for _, _, gflops, _ in plans)
    for kind, arms, gflops, keys in plans:
        found = clock.time(arms, gflops, share=sum(gflops.values()) / rest)
        rest -= sum(gflops.values())
        kind.ms = found.pop("dense", None)
        timed.probes |= {keys[name]: ms for name, ms in found.items() if name in keys}
        timed.others |= {name: ms for name, ms in found.items() if name not in keys}
    timed.saved = {
        way.name: sum(
            (kinds[key[0]].ms or 0) - timed.probes[way.name, key] for _, key in _changed(way, kinds)
        )
        for way in ways
        if all((way.name, key) in timed.probes for key in _probes(way, kinds))
    }
    return timed


def _probes(way: Way, kinds: list[Kind]) -> dict[Key, Unit]:
    """What stands for all units that a way changes: for each key the first, where tokens leave."""
    found: dict[Key, Unit] = {}
    for unit, key in _changed(way, kinds):
        found[key] = min(unit, found.get(key, unit))
    return found


def _changed(way: Way, kinds: list[Kind]) -> list[tuple[Unit, Key]]:
    return [
        (unit, (number, names))
        for number, kind in enumerate(kinds)
        for unit in kind.units
        if (names := tuple(sorted({name for layer in unit for name in way.changes.get(layer, ())})))
    ]


def runs_alone(block: Any) -> bool:
    """Whether a block needs not be told by blocks before it which tokens have left."""
    site = getattr(block, "_sparsight", None)
    return not isinstance(block, ReducingBlock) or site is None or site.layer == site.shared


def whole_ms(work: Work, kinds: list[Kind]) -> tuple[float | None, float]:
    """Milliseconds of the whole dense model, and the share of its FLOPs that timed kinds stand for.

    What was not timed is taken to be as fast, per FLOP, as what was; None if nothing was timed.
    """
    timed = [kind for kind in kinds if kind.ms is not None]
    done = sum(kind.gflops * len(kind.units) for kind in timed)
    if not done:
        return None, 0.0
    spent = sum((kind.ms or 0) * len(kind.units) for kind in timed)
    return spent * work.gflops / done, done / work.gflops
