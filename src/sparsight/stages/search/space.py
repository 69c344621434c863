"""What a search may choose: genes with their alleles, and the settings a choice stands for.

A space is the product of its methods' parts.  In every gene the allele 0 leaves things as they are, so a
choice of zeros is the dense model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sparsight.methods import SPOT, EarlyExit, Settings, method_of

Values = Mapping[str, int]  # gene -> number of its allele
Methods = tuple[Settings, ...]  # of a plan; none: the dense model
AS_IT_IS = None  # the allele 0, where it is no number
INFEASIBLE = 1e9  # the error of a choice outside the limits, or whose maps cannot be fitted
LAYER = "layer."  # how the names of genes that are about one layer begin
DENSE = "dense"


class Part(Protocol):
    """One method's part of the search."""

    @property
    def genes(self) -> Mapping[str, Sequence[Any]]:
        """Alleles by name."""

    def settings(self, values: Values) -> Settings | None:
        """The settings a choice stands for; None if it skips nothing.  Many choices may mean one."""

    def starts(self) -> list[dict[str, int]]:
        """Sensible choices to begin with; the first is what goes best with other methods."""


@dataclass(frozen=True)
class Space:
    """The parts of all methods, by their names."""

    parts: Mapping[str, Part]
    depth: int  # layers of the model

    @property
    def genes(self) -> dict[str, Sequence[Any]]:
        """Those of every part, after its name, where there is a choice."""
        return {
            f"{name}.{gene}": alleles
            for name, part in self.parts.items()
            for gene, alleles in part.genes.items()
            if len(alleles) > 1
        }

    def settings(self, values: Values) -> Methods:
        """The settings of every method that skips something.

        Attention is sparse in layers only that tokens have not left before: others count as dense.
        """
        own = {name: self._own(values, name) for name in self.parts}
        found = {name: part.settings(own[name]) for name, part in self.parts.items()}
        if (first := self._first_without_all(found.values())) is not None:
            for name, config in found.items():
                if config is not None and method_of(config).changes == "attention":
                    found[name] = self.parts[name].settings(_dense_from(own[name], first))
        return tuple(config for config in found.values() if config is not None)

    def starts(self) -> list[dict[str, int]]:
        """Every start of every part with the first of each other one; then each part's first alone."""
        nothing = dict.fromkeys(self.genes, 0)
        starts = {
            name: [
                {f"{name}.{gene}": n for gene, n in start.items() if f"{name}.{gene}" in nothing}
                for start in part.starts()
            ]
            for name, part in self.parts.items()
        }
        first = {gene: n for one, *_ in starts.values() for gene, n in one.items()}
        found = [nothing | first | start for all_ in reversed(starts.values()) for start in all_]
        found += [nothing | one for one, *_ in starts.values()]
        return [s for n, s in enumerate(found) if any(s.values()) and s not in found[:n]]

    def _own(self, values: Values, name: str) -> dict[str, int]:
        return {gene: values.get(f"{name}.{gene}", 0) for gene in self.parts[name].genes}

    def _first_without_all(self, found: Any) -> int | None:
        """The first layer that does not have, or does not look at, all tokens in their order."""
        leaving = [config for config in found if isinstance(config, EarlyExit | SPOT)]
        return min(
            (min(config.changed_layers(tuple(range(self.depth)))) for config in leaving), default=None
        )


def _dense_from(values: Values, layer: int) -> dict[str, int]:
    """The same with every layer from `layer` on as it is."""
    return {
        gene: 0 if gene.startswith(LAYER) and int(gene.removeprefix(LAYER)) >= layer else number
        for gene, number in values.items()
    }


def key_of(methods: Sequence[Settings]) -> str:
    """What tells settings apart, as text."""
    if not methods:
        return DENSE
    return json.dumps({method_of(config).name: config.model_dump(mode="json") for config in methods})
