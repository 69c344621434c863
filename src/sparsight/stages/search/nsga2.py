"""optuna's NSGA-II whose draws hang on the seed alone, and not on whether a search was interrupted."""

from typing import Any

from optuna.samplers import NSGAIISampler


class SteadySampler(NSGAIISampler):
    """The parents of a generation are drawn once and kept in the study: here by a sampler of their own.

    Otherwise the first child would be drawn after them, and the same child after an interrupt without.
    """

    def __init__(self, population: int, seed: int) -> None:
        super().__init__(population_size=population, seed=seed)
        self.given = (population, seed)

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        """A child of two parents, as optuna draws it."""
        other = SteadySampler(*self.given)
        other.get_parent_population(study, other.get_trial_generation(study, trial))
        return super().sample_relative(study, trial, search_space)
