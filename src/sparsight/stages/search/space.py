"""What a search may choose: genes with their alleles, and the settings a choice stands for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sparsight.methods import SVE, Settings
from sparsight.stages.calibrate import Analysis
from sparsight.stages.select import choose_groups

Values = Mapping[str, int]  # gene -> number of its allele
DENSE = None  # the allele of a layer that stays as it is
INFEASIBLE = 1e9  # the error of a choice outside the limits


class Space(Protocol):
    """A method's part of the search."""

    @property
    def genes(self) -> Mapping[str, Sequence[Any]]:
        """Alleles by name."""

    def settings(self, values: Values) -> Settings | None:
        """The settings a choice stands for; None for the dense model.  Many choices may mean one."""

    def starts(self) -> list[dict[str, int]]:
        """Sensible choices to begin with."""


KEEP = (1 / 4, 3 / 16, 1 / 8, 1 / 16)
OVERLAPS = (None, 0.7, 0.5)  # from which overlap on consecutive layers share a pattern


@dataclass(frozen=True)
class SVESpace:
    """For every layer: dense, or how many keys it keeps.

    One more gene says from which overlap on layers reuse a pattern instead of predicting one.
    """

    base: SVE  # what is not searched: score, queries, sample, completion
    ranking: tuple[int, ...]  # the layers that can become sparse, the least harmful first
    overlap_of: Callable[[int, int], float]

    @property
    def genes(self) -> dict[str, Sequence[Any]]:
        """One for every layer, and the overlap."""
        alleles = [DENSE, *KEEP]
        return {f"layer.{n}": alleles for n in sorted(self.ranking)} | {"reuse": OVERLAPS}

    def settings(self, values: Values) -> SVE | None:
        """The sparse layers with what each keeps."""
        chosen = {n: self.genes[f"layer.{n}"][values[f"layer.{n}"]] for n in sorted(self.ranking)}
        sparse = {n: kept for n, kept in chosen.items() if kept is not DENSE}
        if not sparse:
            return None
        overlap = OVERLAPS[values["reuse"]]
        groups = () if overlap is None else choose_groups(tuple(sparse), self.overlap_of, overlap)
        return self.base.model_copy(
            update={
                "layers": tuple(sparse),
                "keep": tuple(sparse.values()),
                "groups": groups,
            }
        )

    def starts(self) -> list[dict[str, int]]:
        """The least harmful third, half, three quarters and all layers, at two fractions each."""
        counts = {max(1, round(len(self.ranking) * share)) for share in (1 / 3, 1 / 2, 3 / 4, 1)}
        alleles = list(self.genes[f"layer.{self.ranking[0]}"])
        wanted = [3 / 16, 1 / 8]
        return [
            {f"layer.{n}": alleles.index(kept) if n in self.ranking[:count] else 0 for n in self.ranking}
            | {"reuse": 0}
            for count in sorted(counts)
            for kept in wanted
        ]


def sve_space(base: SVE, damages: Mapping[int, float], found: Analysis) -> SVESpace:
    """From what each layer costs alone, and how much the patterns of two layers have in common."""
    ranking = tuple(sorted(damages, key=damages.__getitem__))
    return SVESpace(base, ranking, found.overlap_of)
