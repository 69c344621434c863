"""The trials of a search: two objectives, latency and error, by NSGA-II or by SparseViT's evolution.

optuna's journal keeps every trial on disk as it ends, so a killed search goes on where it stopped.  The
sampler is seeded anew for every trial, from the seed and the trial's number: the same seed and latency
table give the same trials, whether or not the search was interrupted.
"""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sparsight.data import Count, Data, Seed
from sparsight.errors import SparsightError
from sparsight.extras import extra
from sparsight.methods import Settings
from sparsight.stages.progress import track
from sparsight.stages.search.space import INFEASIBLE, Space

JOURNAL = "search.journal"
DUPLICATES = 20  # so many choices in a row that were known end the search: there is nothing new


class Search(Data):
    """Settings of a search."""

    trials: Count = 60  # different settings that are tried
    preset: Literal["nsga2", "evolution"] = "nsga2"
    population: Annotated[int, Field(ge=2)] = 20
    parents: Annotated[int, Field(ge=2)] = 5  # of `evolution`: SparseViT's 25 of 100
    mutation: Annotated[float, Field(ge=0, le=1)] = 0.1  # of `evolution`: for each gene
    seed: Seed = 0


class Trial(Data):
    """One setting that was tried; `settings` is None for the dense model."""

    key: str
    latency_ms: float
    error: float
    values: dict[str, int]


def run_trials(
    space: Space,
    settings: Search,
    latency_of: Callable[[Settings | None], float],
    error_of: Callable[[Settings | None], float],
    folder: Path | None,
    recipe: str,
    within: Callable[[float], bool] = lambda latency_ms: True,
) -> list[Trial]:
    """Try `settings.trials` different settings of `space`; returns them in the order of trial.

    `recipe` names the search in the journal in `folder`: another recipe there is refused.  Settings
    whose latency is not `within` the limits are tried without their error being measured.
    """
    study = _study(folder, recipe, settings)
    known: dict[str, Trial] = {}
    for old in completed(study):
        trial = Trial.model_validate(old.user_attrs["trial"])
        known.setdefault(trial.key, trial)
    again = 0
    for _ in track(range(len(known), settings.trials), "Searching", settings.trials - len(known)):
        while again < DUPLICATES:
            asked, values = _ask(study, space, settings)
            chosen = space.settings(values)
            key = "dense" if chosen is None else chosen.model_dump_json()
            new = key not in known
            if new:
                known[key] = _tried(key, chosen, values, latency_of, error_of, within)
            trial = known[key]
            asked.set_user_attr("trial", trial.model_dump(mode="json"))
            study.tell(asked, [trial.latency_ms, trial.error])
            again = 0 if new else again + 1
            if new:
                break
    return list(known.values())


def _tried(
    key: str, chosen: Settings | None, values: dict[str, int],
    latency_of: Callable[[Settings | None], float], error_of: Callable[[Settings | None], float],
    within: Callable[[float], bool],
) -> Trial:  # fmt: skip
    """One new trial; its error is as bad as can be where its latency is not within the limits."""
    latency_ms = latency_of(chosen)
    error = error_of(chosen) if within(latency_ms) else INFEASIBLE
    return Trial(key=key, latency_ms=latency_ms, error=error, values=values)


def _ask(study: Any, space: Space, settings: Search) -> tuple[Any, dict[str, int]]:
    """The next choice: a start, or from a sampler whose chance depends on the trial's number alone."""
    import optuna
    from optuna.trial import TrialState

    number, starts = len(completed(study)), space.starts()
    if number < len(starts) and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial(starts[number])
    seed = settings.seed * 1_000_003 + number
    if settings.preset == "nsga2":
        study.sampler = optuna.samplers.NSGAIISampler(population_size=settings.population, seed=seed)
    else:
        from sparsight.stages.search.evolution import EvolutionSampler

        study.sampler = EvolutionSampler(settings, seed)
    asked = study.ask()
    values = {
        name: asked.suggest_categorical(name, list(range(len(alleles))))
        for name, alleles in space.genes.items()
    }
    return asked, values


def completed(study: Any) -> list[Any]:
    """The trials that were told a result; one that a kill interrupted counts for nothing."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def cut_damaged_end(journal: Path) -> None:
    """Drop what a full disk or a kill left half-written: optuna would write on behind it."""
    if not journal.is_file():
        return
    whole = 0
    for line in journal.read_bytes().splitlines(keepends=True):
        try:
            json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        whole += len(line)
    if whole < journal.stat().st_size:
        os.truncate(journal, whole)


def _study(folder: Path | None, recipe: str, settings: Search) -> Any:
    """A new study, or the one in the folder's journal."""
    optuna = extra("optuna")
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = None
    if folder is not None:
        cut_damaged_end(folder / JOURNAL)
        storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        names = optuna.get_all_study_names(storage)
        if names and names != [recipe]:
            raise SparsightError(
                f"{folder / JOURNAL} holds a search with other settings, pictures or model: choose "
                "another --out, or remove it"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.create_study(
            storage=storage, study_name=recipe, load_if_exists=True,
            directions=["minimize", "minimize"],
        )  # fmt: skip
