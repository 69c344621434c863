"""What a search may choose for SparseViT: how many windows each unit drops (its Step III).

The paper's genes are one sparsity of {0, 0.1, ..., 0.8} for each pair of blocks, sorted within a stage.
Here a unit is a block or such a pair, figures that drop equally many windows of the picture at hand are
one allele, and those that would leave none are left out.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.attach import family_in
from sparsight.methods import SparseViT
from sparsight.methods.sparsevit.config import dropped_count
from sparsight.stages.search.space import Values

SPARSITIES = tuple(tenth / 10 for tenth in range(9))


@dataclass(frozen=True)
class WindowPart:
    """One gene for each unit."""

    base: SparseViT  # what is not searched
    units: tuple[int, ...]  # of each stage
    counts: tuple[int, ...]  # windows of each stage

    @property
    def genes(self) -> dict[str, Sequence[Any]]:
        """By stage and unit, counted from 1."""
        return {
            f"stage.{stage}.unit.{unit}": self._alleles(count)
            for stage, (units, count) in enumerate(zip(self.units, self.counts, strict=True), 1)
            for unit in range(1, units + 1)
        }

    def settings(self, values: Values) -> SparseViT | None:
        """The sparsities, rising within each stage; None if nothing is dropped."""
        genes = self.genes
        stages = tuple(
            tuple(
                sorted(genes[name][values[name]] for name in genes if name.startswith(f"stage.{stage}."))
            )
            for stage in range(1, len(self.units) + 1)
        )
        if not any(map(any, stages)):
            return None
        return self.base.model_copy(update={"sparsity": stages})

    def starts(self) -> list[dict[str, int]]:
        """Alike everywhere, and the published pattern: stage 1 hard, stage 3 more and more."""
        chosen = []
        for share in (0.2, 0.4, 0.6):
            chosen.append(dict.fromkeys(self.genes, share))
            rising = dict.fromkeys(self.genes, 0.0)
            for name in self.genes:
                _, stage, _, unit = name.split(".")
                if stage == "1":
                    rising[name] = min(0.8, share + 0.2)
                elif stage == "3":
                    rising[name] = share * int(unit) / self.units[2]
            chosen.append(rising)
        return [
            {name: _nearest(self.genes[name], wanted) for name, wanted in start.items()}
            for start in chosen
        ]

    def _alleles(self, count: int) -> list[float]:
        by_drop = {dropped_count(count, s): s for s in reversed(SPARSITIES)}
        return sorted(s for drop, s in by_drop.items() if drop < count)


def window_part(model: nn.Module, base: SparseViT, picture: Tensor) -> WindowPart:
    """For pictures of the size of `picture`, (1, 3, height, width)."""
    family = family_in(model)
    windows, blocks = family.windows, family.blocks(model)
    assert windows is not None  # or the plan would not have resolved
    stages, counts = windows.stages(model), []

    def count(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = tuple(inspect.signature(block.forward).parameters)[1:]
        host = kwargs | dict(zip(names, args[1:], strict=False))
        x = family.rows(block, args[0])
        (height, width), (tall, wide) = windows.grid(x, host), windows.size(block)
        counts.append(-(-height // tall) * -(-width // wide))

    firsts = [blocks[units[0][0]] for units in stages]
    handles = [block.register_forward_pre_hook(count, with_kwargs=True) for block in firsts]
    try:
        with torch.no_grad():
            family.features(model, picture)
    finally:
        for handle in handles:
            handle.remove()
    return WindowPart(base, tuple(map(len, stages)), tuple(counts))


def _nearest(alleles: Sequence[float], wanted: float) -> int:
    return min(range(len(alleles)), key=lambda n: abs(alleles[n] - wanted))
