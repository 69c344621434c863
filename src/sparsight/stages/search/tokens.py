"""What a search may choose of SPOT: how many tokens stay, and in which of the trained stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from sparsight.methods import SPOT
from sparsight.stages.search.space import Values

RHOS = tuple(round(0.95 - 0.05 * step, 2) for step in range(11))  # down to 0.45


@dataclass(frozen=True)
class SPOTSpace:
    """The retention of a stage, and which stages there are."""

    base: SPOT  # resolved

    @property
    def genes(self) -> dict[str, Sequence[object]]:
        """Two."""
        stages = self.base.named_stages
        subsets = [s for count in range(len(stages), 0, -1) for s in combinations(stages, count)]
        return {"rho": RHOS, "stages": subsets}

    def settings(self, values: Values) -> SPOT:
        """SPOT with that rho, in those stages."""
        chosen = {name: alleles[values[name]] for name, alleles in self.genes.items()}
        return self.base.model_copy(update=chosen)

    def starts(self) -> list[dict[str, int]]:
        """All stages, from mild to hard."""
        return [{"rho": RHOS.index(rho), "stages": 0} for rho in (0.9, 0.8, 0.7, 0.6)]
