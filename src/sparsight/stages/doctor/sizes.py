"""From how many tokens on a method pays here: one block at a few sizes, dense beside sparse."""

from typing import Any

from torch import nn

from sparsight.errors import ImagesError
from sparsight.families import Family
from sparsight.stages.crossover import WORTH
from sparsight.stages.doctor.blocks import Kind, of_unit, runs_alone
from sparsight.stages.doctor.clock import Clock
from sparsight.stages.doctor.outline import Work, work
from sparsight.stages.doctor.ways import Way
from sparsight.stages.measure import name

SIDES = (16, 24, 32, 48)  # patches: 256 to 2304 tokens of a plain ViT
SHARE = 0.2  # of the budget, for all sizes


def by_size(
    dense: nn.Module, family: Family, ways: list[Way], kind: Kind, clock: Clock
) -> list[dict[str, Any]]:
    """A row for each size that fits into the budget: tokens, and milliseconds of a block in each way.

    The block is of `kind`, which has global attention.  Empty if the model takes no other size.
    """
    layers = {layer for unit in kind.units for layer in unit}
    # One setting for all layers, so that a single block stands for the way at every size.
    single = [
        way for way in ways
        if len(way.methods) == 1 and (own := layers & way.changes.keys())
        and runs_alone(family.blocks(way.sparse)[min(own)])
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    reserve = (1 - SHARE) * clock.left
    for number, side in enumerate(SIDES):
        size = (side * family.patch_px(dense)[0], side * family.patch_px(dense)[1])
        try:
            done = work(dense, size)
        except ImagesError:
            return rows
        layer = min(layers)
        arms = {"dense": of_unit(dense, family, (layer,), done)}
        gflops = {"dense": done.calls[layer].gflops}
        for way in single:
            first = min(layers & way.changes.keys())
            arms[way.name] = of_unit(way.sparse, family, (first,), done)  # type: ignore[arg-type]
            gflops[way.name] = gflops["dense"]
        left = clock.left
        share = (left - reserve) / left / (len(SIDES) - number) if left > reserve else 0.0
        found = clock.time(arms, gflops, share, f"Timing a block at {name(size)}")
        if len(found) == len(arms):
            rows.append({"tokens": done.calls[layer].tokens, "picture": list(size), "ms": found})
    return rows


def with_own(
    rows: list[dict[str, Any]], work: Work, size: tuple[int, int], kind: Kind, ms: dict[str, float]
) -> list[dict[str, Any]]:
    """The rows and one more, of the size that is asked for, from what was timed there anyway."""
    tokens = work.calls[kind.units[0][0]].tokens
    own = {"tokens": tokens, "picture": list(size), "ms": {"dense": kind.ms} | ms}
    return sorted([*(row for row in rows if row["tokens"] != tokens), own], key=lambda r: r["tokens"])


def pays_from(rows: list[dict[str, Any]], way: str) -> int | None:
    """The fewest tokens from which on a way was faster at every size timed; None: at none."""
    found = None
    for row in sorted(rows, key=lambda row: -row["tokens"]):
        if row["ms"]["dense"] < WORTH * row["ms"][way]:
            break
        found = int(row["tokens"])
    return found
