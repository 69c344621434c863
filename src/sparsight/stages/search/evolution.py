"""SparseViT's evolutionary search, as one preset (its Step III).

A first population at random; of each finished one the best `parents` are kept as parents; then half of
the next are mutations of a parent (each gene drawn anew with a small chance), half uniform crossovers of
two.  Candidates outside the limits of latency are tried at no cost and never become parents (rejection).
Here, unlike in the released code, known candidates are not counted again (trials.py) and the best of all
populations stay parents.
"""

import random
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution

from sparsight.data import Data
from sparsight.stages.search.space import INFEASIBLE


class EvolutionSampler(optuna.samplers.BaseSampler):
    """Draws the next choice from the trials so far; lowest error first, latency second."""

    def __init__(self, settings: Data, seed: int) -> None:
        self.settings: Any = settings
        self.random = random.Random(seed)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        """All genes, as the trials before had them."""
        return optuna.search_space.intersection_search_space(study.get_trials(deepcopy=False))

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        """A mutation or a crossover of parents; nothing (so that genes are drawn at random) at first."""
        done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        feasible = [t for t in done if t.values[1] < INFEASIBLE]
        if len(done) < self.settings.population or len(feasible) < 2 or not search_space:
            return {}
        parents = sorted(feasible, key=lambda t: (t.values[1], t.values[0]))[: self.settings.parents]
        if len(done) % 2:
            parent = self.random.choice(parents)
            return {
                name: self.random.choice(space.choices)
                if self.random.random() < self.settings.mutation
                else parent.params[name]
                for name, space in search_space.items()
            }
        one, two = self.random.sample(parents, 2)
        return {name: self.random.choice((one, two)).params[name] for name in search_space}

    def sample_independent(self, study: Any, trial: Any, name: str, space: Any) -> Any:
        """At random."""
        assert isinstance(space, CategoricalDistribution)
        return self.random.choice(space.choices)
