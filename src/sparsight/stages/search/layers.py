"""What a search may choose layer by layer: how many keys attention sees, and how many tokens the MLP."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsight.methods import SVE, MLPRouting
from sparsight.stages.calibrate import Analysis
from sparsight.stages.search.space import AS_IT_IS, LAYER, Values
from sparsight.stages.select import choose_groups

KEEP = (1 / 4, 3 / 16, 1 / 8, 1 / 16)
OVERLAPS = (None, 0.7, 0.5)  # from which overlap on consecutive layers share a pattern
FEW_QUERIES = 1 / 32  # that see all keys: with a map they matter little (docs/completion.md)
SHARES = (1 / 2, 1 / 4)  # of the tokens, through the MLP
FIRST_ROUTED = 2  # the layers before bear it least (docs/completion.md)


@dataclass(frozen=True)
class SVEPart:
    """For every layer: dense, or how many keys it keeps.

    Besides, from which overlap on layers reuse a pattern instead of predicting one, whether as many
    queries see everything or few, and whether a map completes.
    """

    base: SVE  # what is not searched: score, sample
    ranking: tuple[int, ...]  # the layers that can become sparse, the least harmful first
    overlap_of: Callable[[int, int], float]

    @property
    def genes(self) -> dict[str, Sequence[Any]]:
        """One for every layer, and those for all of them."""
        own = self.base.keep_queries
        return {f"{LAYER}{n}": [AS_IT_IS, *KEEP] for n in sorted(self.ranking)} | {
            "reuse": OVERLAPS,
            "queries": (own,) if own is not None else (FEW_QUERIES, None),
            "completion": ("none", "map") if self.base.completion == "map" else ("none",),
        }

    def settings(self, values: Values) -> SVE | None:
        """The sparse layers with what each keeps."""
        genes = self.genes
        chosen = {n: genes[f"{LAYER}{n}"][values[f"{LAYER}{n}"]] for n in sorted(self.ranking)}
        sparse = {n: kept for n, kept in chosen.items() if kept is not AS_IT_IS}
        if not sparse:
            return None
        overlap = OVERLAPS[values["reuse"]]
        groups = () if overlap is None else choose_groups(tuple(sparse), self.overlap_of, overlap)
        update = {name: genes[name][values[name]] for name in ("completion",)}
        return self.base.model_copy(
            update=update
            | {
                "keep_queries": genes["queries"][values["queries"]],
                "layers": tuple(sparse),
                "keep": tuple(sparse.values()),
                "groups": groups,
            }
        )

    def starts(self) -> list[dict[str, int]]:
        """All layers, the least harmful three quarters, half and third; each at two fractions."""
        counts = {max(1, round(len(self.ranking) * share)) for share in (1, 3 / 4, 1 / 2, 1 / 3)}
        completed = len(self.genes["completion"]) - 1
        return [
            {
                f"{LAYER}{n}": 1 + KEEP.index(kept) if n in self.ranking[:count] else 0
                for n in self.ranking
            }
            | {"reuse": 0, "queries": 0, "completion": completed}
            for count in sorted(counts, reverse=True)
            for kept in (3 / 16, 1 / 8)
        ]


@dataclass(frozen=True)
class MLPPart:
    """For every layer: all tokens through the MLP, or which share."""

    base: MLPRouting  # what is not searched: score, completion
    layers: tuple[int, ...]

    @property
    def genes(self) -> dict[str, Sequence[Any]]:
        """One for every layer."""
        return {f"{LAYER}{n}": [AS_IT_IS, *SHARES] for n in self.layers}

    def settings(self, values: Values) -> MLPRouting | None:
        """The routed layers with their shares."""
        chosen = {n: self.genes[f"{LAYER}{n}"][values[f"{LAYER}{n}"]] for n in self.layers}
        routed = {n: share for n, share in chosen.items() if share is not AS_IT_IS}
        if not routed:
            return None
        return self.base.model_copy(update={"layers": tuple(routed), "keep": tuple(routed.values())})

    def starts(self) -> list[dict[str, int]]:
        """Nothing, which goes best with others; then half and a quarter, from the third layer on."""
        later = [n for n in self.layers if n >= FIRST_ROUTED] or list(self.layers)
        return [
            dict.fromkeys(self.genes, 0) | {f"{LAYER}{n}": allele for n in later}
            for allele in range(1 + len(SHARES))
        ]


def sve_part(base: SVE, damages: Mapping[int, float], found: Analysis) -> SVEPart:
    """From what each layer costs alone, and how much the patterns of two layers have in common."""
    ranking = tuple(sorted(damages, key=damages.__getitem__))
    return SVEPart(base, ranking, found.overlap_of)
