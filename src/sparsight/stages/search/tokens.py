"""What a search may choose where tokens leave.

Of SPOT, how many stay, and in which of the trained stages; of early exit, after which layers, how
many stay, and by which score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from sparsight.methods import SPOT, EarlyExit
from sparsight.methods.base import Layers
from sparsight.stages.search.space import Values

KEEPS = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)  # after the last exit
EXIT_SCORES = ("standout", "map-error", "sampled")
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


@dataclass(frozen=True)
class ExitSpace:
    """Where tokens leave, once or twice, how many stay, and by which score."""

    base: EarlyExit  # what is not searched: completion, taps
    depth: int

    @property
    def genes(self) -> dict[str, Sequence[object]]:
        """Three."""
        firsts = range(1, max(2, self.depth // 2))
        once: list[Layers] = [(layer,) for layer in firsts]
        twice: list[Layers] = [(n, m) for n in firsts if (m := n + self.depth // 3) < self.depth - 1]
        return {"after": [*once, *twice], "keep": KEEPS, "score": EXIT_SCORES}

    def settings(self, values: Values) -> EarlyExit:
        """Early exit with those."""
        chosen = {name: alleles[values[name]] for name, alleles in self.genes.items()}
        return self.base.model_copy(update=chosen)

    def starts(self) -> list[dict[str, int]]:
        """After a sixth of the layers, from mild to hard."""
        place = min(max(0, self.depth // 6 - 1), len(self.genes["after"]) - 1)
        return [{"after": place, "keep": KEEPS.index(keep), "score": 0} for keep in (0.6, 0.4, 0.3)]
