"""What a search may choose where tokens leave.

Of SPOT, how many stay, and in which of the trained stages; of early exit, after which layers, how
many stay, and by which score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from sparsight.methods import SPOT, EarlyExit
from sparsight.methods.base import Layers
from sparsight.stages.search.space import AS_IT_IS, Values

KEEPS = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2)  # of all tokens, after the first exit
AGAIN = (0.8, 0.6, 0.4)  # of those there, after the second
EXIT_SCORES = ("standout", "map-error", "sampled")
RHOS = tuple(round(0.95 - 0.05 * step, 2) for step in range(11))  # down to 0.45


@dataclass(frozen=True)
class SPOTPart:
    """The retention of a stage, and which stages there are."""

    base: SPOT  # resolved

    @property
    def genes(self) -> dict[str, Sequence[Any]]:
        """Two."""
        stages = self.base.named_stages
        subsets = [s for count in range(len(stages), 0, -1) for s in combinations(stages, count)]
        return {"rho": RHOS, "stages": [AS_IT_IS, *subsets]}

    def settings(self, values: Values) -> SPOT | None:
        """SPOT with that rho, in those stages."""
        chosen = {name: alleles[values[name]] for name, alleles in self.genes.items()}
        if chosen["stages"] is AS_IT_IS:
            return None
        return self.base.model_copy(update=chosen | {"taps": later(self.base.taps, chosen["stages"][0])})

    def starts(self) -> list[dict[str, int]]:
        """All stages, from mild to hard."""
        return [{"rho": RHOS.index(rho), "stages": 1} for rho in (0.9, 0.8, 0.7, 0.6)]


@dataclass(frozen=True)
class ExitPart:
    """Where tokens leave, once or twice, how many stay, and by which score."""

    base: EarlyExit  # what is not searched: completion, taps, recover; `after` if it is named
    depth: int

    @property
    def genes(self) -> dict[str, Sequence[Any]]:
        """Where, how many, how many of those the second time, and by what."""
        least = 0.0 if self.base.recover is None else 1 / self.base.recover  # which stay anyway
        scores = [s for s in EXIT_SCORES if s != "map-error" or self.base.completion == "map"]
        own = [s for s in (self.base.score,) if s not in scores]
        return {
            "after": [AS_IT_IS, *self.once(), *self.twice()],
            "keep": [keep for keep in KEEPS if keep > least] or [1.0],
            "again": [share for share in AGAIN if share > least] or [1.0],
            "score": [*own, *scores],
        }

    def once(self) -> list[Layers]:
        """One exit: after the first half of the layers, or after one of those that are named."""
        usual = [n for n in range(1, self.depth // 2) if n < self.depth - 1] or [0]
        return [(layer,) for layer in (self.base.after or usual)]

    def twice(self) -> list[Layers]:
        """Two exits: the second a sixth, a third or half of the layers after the first."""
        firsts = [first for (first,) in self.once()]
        if self.base.after is not None:
            return list(combinations(firsts, 2))
        steps = sorted({max(1, self.depth // part) for part in (6, 3, 2)})
        return [(n, n + step) for n in firsts for step in steps if n + step < self.depth - 1]

    def settings(self, values: Values) -> EarlyExit | None:
        """Early exit with those."""
        chosen = {name: alleles[values[name]] for name, alleles in self.genes.items()}
        exits, keep, again = chosen["after"], chosen["keep"], chosen["again"]
        if exits is AS_IT_IS:
            return None
        return self.base.model_copy(
            update={
                "after": exits,
                "keep": (keep,) if len(exits) == 1 else (keep, round(keep * again, 4)),
                "score": chosen["score"],
                "taps": later(self.base.taps, exits[0] + 1),
            }
        )

    def starts(self) -> list[dict[str, int]]:
        """After a sixth of the layers; from mild to hard, then once more after a third of them."""
        genes = self.genes
        once, twice = self.once(), self.twice()
        place = min(max(0, self.depth // 6 - 1), len(once) - 1)
        again = [pair for pair in twice if pair[0] == once[place][0]]
        chosen = [(once[place], keep) for keep in (0.4, 0.6, 0.3)]
        chosen += [(pair, keep) for pair in again[len(again) // 2 :][:1] for keep in (0.4, 0.25)]
        return [
            {
                "after": genes["after"].index(exits),
                "keep": min(range(len(genes["keep"])), key=lambda n: abs(genes["keep"][n] - keep)),
                "again": len(genes["again"]) // 2,
                "score": 0,
            }
            for exits, keep in chosen
        ]


def later(taps: Layers, first: int) -> Layers:
    """Those of the taps that are not before `first`, the first layer without all tokens."""
    return tuple(tap for tap in taps if tap >= first)
