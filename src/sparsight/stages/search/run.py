"""The whole search: rank the layers, try settings, run the front, choose by the budget."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsight.arguments import checked
from sparsight.attach import applied, as_plan
from sparsight.data import Count
from sparsight.errors import ImagesError, PlanError, SparsightError
from sparsight.families import encoder_in
from sparsight.files import check_writable, write_json
from sparsight.identity import identity
from sparsight.images import Held
from sparsight.methods import Settings, method_named
from sparsight.plan import Plan
from sparsight.run import save_plan
from sparsight.stages import timing
from sparsight.stages.bench import Bench, bench_of
from sparsight.stages.compare import Judge, by_features
from sparsight.stages.complete import COMPLETION_FILE, complete
from sparsight.stages.measure import name
from sparsight.stages.pictures import pictures_for
from sparsight.stages.progress import Progress, followed
from sparsight.stages.search import front as fronts
from sparsight.stages.search.budget import Budget
from sparsight.stages.search.latency import Latency
from sparsight.stages.search.parts import best_methods, fitting, space_of
from sparsight.stages.search.proxy import MOST, Half, Proxy
from sparsight.stages.search.space import Methods
from sparsight.stages.search.trials import Search, Trial, run_trials

REPEATS = 7
TABLE_FILE = "latency.json"


@followed
@checked
def search(
    model: nn.Module,
    images: Any,
    budget: Budget,
    out: Path,
    method: Settings | Sequence[Settings] | None = None,
    settings: Search | None = None,
    start: Plan | None = None,
    latency_table: Path | None = None,
    max_images: Count = 16,
    source: str | None = None,
    module: str | None = None,
    judge: tuple[str, Judge] | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Find the settings that meet `budget`; the model itself is left as it was.

    `images`         pictures in any form that `optimize` takes
    `method`         settings of a method, or of several in a list, whose settings are searched; layers
                     that they name are all that may be changed.  None: those of `start`, or sparse
                     attention and then tokens that leave, completed, where the model allows it
    `start`          a plan of this model whose weights every candidate uses, such as a distilled one
    `latency_table`  file of measured parts; in `out` unless given
    `judge`          name and function of the reported quality, on pictures of its own; None: the cosine
                     to the dense features, on every second picture, which the search then does not see
    `progress`       is told as by `optimize`

    Writes the front into `out` (each point is a run), and the chosen plan as the run `out` itself.
    Raises SparsightError, with the front saved, if the budget cannot be met.
    """
    model = encoder_in(model, module)
    if applied(model):
        raise PlanError("a search starts from the dense model: call sparsight.restore(model) first")
    images = pictures_for(model, images, 2 * max_images)
    if len(images) < 2 and judge is None:
        raise ImagesError("a search needs two images at least: one to search on, one to report on")
    settings = settings or Search()
    searched = Held(images if judge else Half(images, 0))
    bench = bench_of(model, searched, max_images)
    bench.results = {}
    plan = _drafted(bench, method, start, source)
    check_writable(out)
    picture = bench.first()
    plan = plan.with_(resolution=(picture.shape[2], picture.shape[3]))
    proxy = Proxy(bench, plan)
    space = space_of(bench_of(model, searched, MOST), plan, proxy.damages[0], picture)
    latency = Latency(model, picture, plan, latency_table or out / TABLE_FILE)
    wanted_ms = _wanted_ms(budget, latency)
    recipe = [plan.to_json(), settings.model_dump(mode="json"), len(images), _plain(space.genes)]
    trials = run_trials(
        space, settings, latency, proxy.steps, out,
        hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16],
        within=lambda ms: settings.preset != "evolution" or wanted_ms is None or ms <= wanted_ms,
    )  # fmt: skip
    points = fronts.finalists(fronts.pareto(trials), wanted_ms)
    if not points:
        why = proxy.refused or "none is within the limits, or the features are not finite"
        raise SparsightError(f"none of {len(trials)} settings could be judged: {why}")
    folders = fronts.cleared(out, len(points))
    plans = refitted(bench, plan, [space.settings(point.values) for point in points], folders)
    quality_name, judged = judge or (
        "cosine to the dense features", by_features(Half(images, 1), max_images)
    )  # fmt: skip
    rows = fronts.run_front(model, picture, plans, points, REPEATS, judged)
    protocol = _protocol(bench, picture, quality_name, settings)
    shown = [trial.model_dump(mode="json", exclude={"values"}) for trial in trials]
    write_json(out / fronts.FRONT_FILE, {"protocol": protocol, "rows": rows, "trials": shown})
    for folder in folders:
        (folder / COMPLETION_FILE).unlink(missing_ok=True)
    return _chosen(budget, out, plans, rows, trials, quality_name, settings, len(images), module)


def _drafted(
    bench: Bench, method: Settings | Sequence[Settings] | None, start: Plan | None, source: str | None
) -> Plan:
    """The plan whose settings are searched; PlanError now if its methods do not suit the model."""
    if method is None and start is None:
        found = best_methods(bench.model, bench.family)
        method = [method_named(one).config().completed() for one in found]
    plan = start or as_plan(method or ())
    if method is not None:
        plan = plan.with_(methods=as_plan(method).methods)
    made = identity(bench.model, bench.family)
    return fitting(bench, plan).with_(
        model=made, source=source, versions=timing.versions(), layers=(), reasons=(), recipe={}
    )


def refitted(bench: Bench, plan: Plan, chosen: Sequence[Methods], folders: Sequence[Path]) -> list[Plan]:
    """Every choice as a run in its folder, with what completes it fitted on all pictures.

    What an interrupted search has fitted is taken from there.
    """
    plans = []
    for methods, folder in zip(chosen, folders, strict=True):
        bench.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        plans.append(complete(bench, plan.with_(methods=methods)))
        save_plan(plans[-1], folder)
    return plans


def _chosen(
    budget: Budget, out: Path, plans: Sequence[Plan], rows: Sequence[dict[str, Any]],
    trials: Sequence[Trial], quality_name: str, settings: Search, images: int, module: str | None,
) -> Plan:  # fmt: skip
    """The point of the front that the budget chooses, saved as the run itself."""
    place = budget.choose(rows)
    lost = 100 * rows[place]["quality_lost"]
    chosen = plans[place].with_(
        recipe=plans[place].recipe
        | {"search": settings.model_dump(mode="json"), "images": images}
        | ({"module": module} if module else {}),
        reasons=(
            f"chosen from {len(trials)} trials, point {place:02d} of the front: "
            f"{rows[place]['speedup']:.2f}x, {lost:.2f} points of {quality_name} lost",
        ),
    )
    save_plan(chosen, out)
    return chosen


def _wanted_ms(budget: Budget, latency: Latency) -> float | None:
    """The latency that the budget allows, if it is one of time."""
    return latency(()) / budget.speedup if budget.speedup else budget.latency_ms


def _plain(genes: Any) -> dict[str, list[str]]:
    """Genes and their alleles, as text."""
    return {gene: [repr(allele) for allele in alleles] for gene, alleles in genes.items()}


def _protocol(bench: Bench, picture: Tensor, quality_name: str, settings: Search) -> dict[str, Any]:
    """Under what the figures of the front were made."""
    used, _ = bench.counted()
    return timing.protocol(
        picture.device, picture.dtype, resolution=name((picture.shape[2], picture.shape[3])), batch=1,
        repeats=REPEATS, quality_name=quality_name, search=settings.model_dump(mode="json"),
        completed_on=used,
        predicted="latency from the table of measured blocks; error, weighted by salience, on a few "
        "pictures of the search; quality on others",
    )  # fmt: skip
