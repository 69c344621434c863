"""The whole search: rank the layers, try settings, run the front, choose by the budget."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsight.arguments import checked
from sparsight.attach import applied, as_plan, family_in
from sparsight.data import Count
from sparsight.errors import ImagesError, PlanError
from sparsight.families import encoder_in
from sparsight.files import check_writable
from sparsight.fit import resolve
from sparsight.identity import identity
from sparsight.images import Images, Reader, named
from sparsight.methods import SPOT, SVE, EarlyExit, Settings, SparseViT, tensor_name
from sparsight.plan import Plan
from sparsight.run import save_plan
from sparsight.stages import timing
from sparsight.stages.bench import Bench, bench_of
from sparsight.stages.calibrate import analyze
from sparsight.stages.compare import Judge, by_features
from sparsight.stages.complete import complete
from sparsight.stages.measure import name
from sparsight.stages.pictures import pictures_for
from sparsight.stages.search import front as fronts
from sparsight.stages.search.budget import Budget
from sparsight.stages.search.latency import Latency
from sparsight.stages.search.space import Space, sve_space
from sparsight.stages.search.tokens import ExitSpace, SPOTSpace
from sparsight.stages.search.trials import Search, run_trials
from sparsight.stages.search.windows import window_space
from sparsight.stages.select import Damage

SEARCH_IMAGES, REPEATS = 4, 7
TABLE_FILE = "latency.json"


@dataclass(frozen=True)
class Part:
    """Every second picture, so that what is searched on is not what is reported on."""

    images: Images
    first: int

    def __len__(self) -> int:
        return (len(self.images) - self.first + 1) // 2

    def __getitem__(self, index: int) -> Tensor:
        return self.images[self.first + 2 * index]

    def name_of(self, index: int) -> str:
        """What the set calls it."""
        return named(self.images, self.first + 2 * index)


@checked
def search(
    model: nn.Module,
    images: Any,
    budget: Budget,
    out: Path,
    method: Settings | None = None,
    settings: Search | None = None,
    start: Plan | None = None,
    latency_table: Path | None = None,
    max_images: Count = 16,
    source: str | None = None,
    module: str | None = None,
    judge: tuple[str, Judge] | None = None,
) -> Plan:
    """Find the settings of `method` that meet `budget`; the model itself is left as it was.

    `images`         pictures in any form that `optimize` takes
    `start`          a plan of this model whose weights every candidate uses, such as a distilled one
    `latency_table`  file of measured parts; in `out` unless given
    `judge`          name and function of the reported quality, other than the cosine to dense features

    Writes the front into `out` (each point is a run), and the chosen plan as the run `out` itself.
    Raises SparsightError, with the front saved, if the budget cannot be met.
    """
    model = encoder_in(model, module)
    if applied(model):
        raise PlanError("a search starts from the dense model: call sparsight.restore(model) first")
    images = pictures_for(model, images, SEARCH_IMAGES + max_images)
    if len(images) < 2:
        raise ImagesError("a search needs two images at least: one to search on, one to report on")
    check_writable(out)
    settings = settings or Search()
    searched, reported = Part(images, 0), Part(images, 1)
    family, plan = family_in(model), start or as_plan(method or SVE())
    if len(plan.methods) > 1:
        raise PlanError(f"a search is over the settings of one method, and the plan has {plan.name}")
    plan = plan.with_(
        model=identity(model, family), source=source, versions=timing.versions(), layers=(), reasons=()
    )
    picture = _picture(model, images)
    plan = plan.with_(resolution=(picture.shape[2], picture.shape[3]), recipe={})
    count = min(SEARCH_IMAGES, len(searched))
    damage, bench = Damage(model, searched, count), bench_of(model, searched, count)
    space = space_of(bench, plan, damage)
    latency = Latency(model, picture, plan, latency_table or out / TABLE_FILE)
    recipe = [plan.to_json(), settings.model_dump(mode="json"), len(images), list(space.genes)]
    trials = run_trials(
        space, settings, latency,
        lambda chosen: 0.0 if chosen is None else damage(fitted(plan, chosen, bench)),
        out, hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16],
        within=_within(budget, latency) if settings.preset == "evolution" else lambda _: True,
    )  # fmt: skip
    points = fronts.finalists([t for t in fronts.pareto(trials) if t.key != "dense"])
    plans = [fitted(plan, fronts.settings_of(point, plan), bench) for point in points]
    quality_name, judged = judge or ("cosine to the dense features", by_features(reported, max_images))
    rows = fronts.run_front(model, picture, plans, points, REPEATS, judged)
    fronts.save_front(out, plans, _result(model, picture, quality_name, settings, trials, rows))
    place = budget.choose(rows)
    lost = 100 * rows[place]["quality_lost"]
    chosen = plans[place].with_(
        recipe={"search": settings.model_dump(mode="json"), "images": len(images)}
        | ({"module": module} if module else {}),
        reasons=(
            f"chosen from {len(trials)} trials, point {place:02d} of the front: "
            f"{rows[place]['speedup']:.2f}x, {lost:.2f} points of {quality_name} lost",
        ),
    )
    save_plan(chosen, out)
    return chosen


def fitted(plan: Plan, chosen: Settings, bench: Bench) -> Plan:
    """`plan` with other settings of its method, and with what completes them fitted anew."""
    return complete(bench, plan.changed(chosen))


def space_of(bench: Bench, plan: Plan, damage: Damage) -> Space:
    """What may be chosen for the plan's method."""
    model, family = bench.model, bench.family
    if plan.find(SVE) is None:  # refused before any work if it does not fit
        named = resolve(complete(bench, plan), model, family)
        if windows := named.find(SparseViT):
            windows = windows.model_copy(update={"bound": None})
            return window_space(model, windows, _picture(model, bench.images))
        if spot := named.find(SPOT):
            return SPOTSpace(spot)
        if leaving := named.find(EarlyExit):
            wanted = {"min_tokens": 0, "bound": None}
            return ExitSpace(leaving.model_copy(update=wanted), len(family.blocks(model)))
        raise PlanError(f"there is no search for {plan.name}: use SVE, EarlyExit, SPOT or SparseViT")
    base = plan.sve.model_copy(update={"min_tokens": 0, "groups": ()})
    layers = family.global_layers(model)
    if base.score == "linear":  # only layers with a projector can rank by one
        layers = tuple(n for n in layers if tensor_name("sve", n, "projector") in plan.weights)
    alone = base.model_copy(update={"keep": 1 / 8, "completion": "none"})
    single = [alone.model_copy(update={"layers": (n,)}) for n in layers]
    damages = {n: damage(plan.changed(one)) for n, one in zip(layers, single, strict=True)}
    return sve_space(base, damages, analyze(model, bench.images, bench.max_images))


def _picture(model: nn.Module, images: Images) -> Tensor:
    """The picture that is timed, as a batch of one."""
    like = next(model.parameters())
    return Reader(images).read(0)[None].to(like.device, like.dtype)


def _within(budget: Budget, latency: Latency) -> Any:
    """Whether a predicted latency meets the budget; SparseViT resamples those that do not."""
    dense = latency(None)
    if budget.speedup is not None:
        return lambda ms: dense / ms >= budget.speedup
    if budget.latency_ms is not None:
        return lambda ms: ms <= budget.latency_ms
    return lambda _: True


def _result(
    model: nn.Module, picture: Tensor, quality_name: str, settings: Search, trials: Any, rows: Any
) -> dict[str, Any]:
    """What front.json says."""
    first = next(model.parameters())
    return {
        "protocol": timing.protocol(
            first.device, first.dtype, resolution=name((picture.shape[2], picture.shape[3])), batch=1,
            repeats=REPEATS, quality_name=quality_name, search=settings.model_dump(mode="json"),
            predicted="latency from the table of measured blocks; error, weighted by salience, on the "
            "search split; quality on the report split",
        ),
        "rows": rows,
        "trials": [trial.model_dump(mode="json", exclude={"values"}) for trial in trials],
    }  # fmt: skip
