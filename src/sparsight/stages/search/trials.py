"""The trials of a search: two objectives, latency and error, by NSGA-II or by SparseViT's evolution.

The error is measured in steps, on few pictures first.  Who is beaten there by a margin is dropped, and
its error counts as it is: it is not on the front either way.  optuna's journal keeps every trial on
disk as it ends, so a killed search goes on where it stopped.  The sampler is seeded anew for every
trial, from the seed and its number: the same seed and latency table give the same trials, whether or not
the search was interrupted.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sparsight.data import Count, Data, Seed
from sparsight.errors import SparsightError
from sparsight.extras import extra
from sparsight.stages.progress import track
from sparsight.stages.search.space import DENSE, INFEASIBLE, Methods, Space, key_of

JOURNAL = "search.journal"
DUPLICATES = 20  # so many choices in a row that were known end the search: there is nothing new
MARGIN = 0.1  # of the error: so much better on the same pictures, and as fast, is better on more of them


class Search(Data):
    """Settings of a search."""

    trials: Count = 60  # different settings that are tried
    preset: Literal["nsga2", "evolution"] = "nsga2"
    population: Annotated[int, Field(ge=2)] = 20
    parents: Annotated[int, Field(ge=2)] = 5  # of `evolution`: SparseViT's 25 of 100
    mutation: Annotated[float, Field(ge=0, le=1)] = 0.1  # of `evolution`: for each gene
    seed: Seed = 0


class Trial(Data):
    """Settings that were tried."""

    key: str
    latency_ms: float
    errors: tuple[float, ...]  # on few pictures first, as far as it went
    whole: bool = True  # whether it went all the way
    values: dict[str, int]

    @property
    def error(self) -> float:
        """On the most pictures it was tried on."""
        return self.errors[-1]


def run_trials(
    space: Space,
    settings: Search,
    latency_of: Callable[[Methods], float],
    errors: Sequence[Callable[[Methods], float]],
    folder: Path | None,
    recipe: str,
    within: Callable[[float], bool] = lambda latency_ms: True,
) -> list[Trial]:
    """Try `settings.trials` different settings of `space`; returns them in the order of trial.

    `errors` measure on more and more pictures.  `recipe` names the search in the journal in `folder`:
    another recipe there is refused.  Settings whose latency is not `within` the limits are tried without
    their error being measured.
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
            key = key_of(chosen)
            new = key not in known
            if new:
                latency_ms = latency_of(chosen)
                found: tuple[float, ...] = (INFEASIBLE,)
                whole = True
                if key == DENSE:
                    found = (0.0,) * len(errors)
                elif within(latency_ms):
                    found, whole = _tried(chosen, latency_ms, errors, known.values())
                known[key] = Trial(
                    key=key, latency_ms=latency_ms, errors=found, whole=whole, values=values
                )
            trial = known[key]
            asked.set_user_attr("trial", trial.model_dump(mode="json"))
            study.tell(asked, [trial.latency_ms, trial.error])
            again = 0 if new else again + 1
            if new:
                break
    return list(known.values())


def _tried(
    chosen: Methods, latency_ms: float, errors: Sequence[Callable[[Methods], float]],
    known: Iterable[Trial],
) -> tuple[tuple[float, ...], bool]:  # fmt: skip
    """The errors of new settings, and whether none of the others dropped them on the way."""
    found: list[float] = []
    for step, error_of in enumerate(errors):
        found.append(error_of(chosen))
        if step + 1 == len(errors) or found[step] >= INFEASIBLE:  # more pictures may do
            continue
        rivals = [t for t in known if len(t.errors) > step and t.latency_ms <= latency_ms]
        if any(rival.errors[step] * (1 + MARGIN) < found[step] for rival in rivals):
            return tuple(found), False
    return tuple(found), True


def _ask(study: Any, space: Space, settings: Search) -> tuple[Any, dict[str, int]]:
    """The next choice: a start, or from a sampler whose chance depends on the trial's number alone."""
    from optuna.trial import TrialState

    number, starts = len(completed(study)), space.starts()
    if number < len(starts) and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial(starts[number])
    seed = settings.seed * 1_000_003 + number
    if settings.preset == "nsga2":
        from sparsight.stages.search.nsga2 import SteadySampler

        study.sampler = SteadySampler(settings.population, seed)
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
