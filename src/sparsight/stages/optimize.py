"""Optimize: from a model and pictures to a plan, by the steps that its methods name (steps.py)."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from torch import nn

from sparsight.arguments import checked
from sparsight.attach import as_plan
from sparsight.data import Count
from sparsight.errors import NotFiniteError, PlanError
from sparsight.families import encoder_in
from sparsight.files import check_writable, write_json
from sparsight.fit import free_layers, named_shapes, resolve, with_layers
from sparsight.identity import identity
from sparsight.images import left_out
from sparsight.methods import SPOT, SVE, Settings, SparseViT, method_named
from sparsight.plan import Plan
from sparsight.run import LOSSES_FILE, PLAN_FILE, load, save_plan
from sparsight.stages import adapt, distil
from sparsight.stages import relevance as relevance_
from sparsight.stages.adapt import Adaptation
from sparsight.stages.bench import Bench, How, bench_of, blank
from sparsight.stages.complete import COMPLETION_FILE
from sparsight.stages.distil import Distillation
from sparsight.stages.heldout import held_out
from sparsight.stages.pictures import pictures_for
from sparsight.stages.progress import Progress, followed
from sparsight.stages.relevance import RelevanceTraining
from sparsight.stages.steps import STEPS, steps_of
from sparsight.stages.timing import versions

UNFINISHED = "unfinished"  # in the run's folder, while steps are still to be done
CHECKPOINTS = (
    COMPLETION_FILE, distil.CHECKPOINT_FILE, adapt.CHECKPOINT_FILE, relevance_.CHECKPOINT_FILE,
)  # fmt: skip
TRAINED: dict[str, type[Settings]] = {"distillation": SVE, "adaptation": SparseViT, "relevance": SPOT}
FOUND_FILES = {"analysis": "analysis.json", "analysis-sparse": "analysis-sparse.json"}


@followed
@checked
def optimize(
    model: nn.Module,
    images: Any,
    method: Settings | Sequence[Settings] | Plan | str = "sve",
    out: str | PathLike[str] | None = None,
    distillation: Distillation | None = None,
    adaptation: Adaptation | None = None,
    relevance: RelevanceTraining | None = None,
    select_by: Literal["damage", "indicator"] = "damage",
    max_error: float = How().max_error,
    indicator_threshold: float = How().indicator_threshold,
    reuse_overlap: float | None = How().reuse_overlap,
    max_images: Count = 16,
    source: str | None = None,
    module: str | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Find and prepare a sparse plan for `model`; the model itself is left as it was.

    `images`         an ImageFolder; or a folder, file paths, PIL pictures, uint8 arrays, normalised
                     tensors, a data set or a DataLoader of any of these (labels are passed over); files
                     and PIL pictures are brought to the model's own size
    `method`         settings, several in a list, the name of a method (with its completion), or a plan
                     to go on from
    `out`            folder to save the run in, and to go on from if it was interrupted
    `distillation`   of SVE: adapt the weights as well, until that no longer helps on pictures held out,
                     for some minutes or steps; None: training-free
    `adaptation`     of SparseViT: the same
    `relevance`      of SPOT: how its networks are trained
    `select_by`      how SVE's layers="auto" chooses: "damage", the most layers whose joint relative
                     error of the final features is at most `max_error`; "indicator", s above
                     `indicator_threshold`
    `reuse_overlap`  consecutive layers with at least this overlap share a pattern; None: none do
    `module`         path of the vision encoder inside a larger model, such as "vision_tower"
    `progress`       is called with (what, done, total), such as ("Completing", 3, 12), as each stage
                     goes on, in place of a bar on the terminal; what it raises ends the work

    Returns the plan; `apply(model, plan, module)` makes the model sparse.
    """
    model = encoder_in(model, module)
    trained = distillation or adaptation or relevance
    images = pictures_for(model, images, None if trained else max_images)
    if distillation:
        held_out(len(images), distillation)  # refused now if there are too few
    how = How(
        select_by=select_by, max_error=max_error, indicator_threshold=indicator_threshold,
        reuse_overlap=reuse_overlap, distillation=distillation, adaptation=adaptation,
        relevance=relevance,
    )  # fmt: skip
    folder = Path(out) if out is not None else None
    bench = bench_of(model, images, max_images, folder, how)
    if folder:
        check_writable(folder)
    plan = _draft(bench, method, source)
    if module:
        plan = plan.with_(recipe=plan.recipe | {"module": module})
    resumable = () if folder is None else (UNFINISHED, *CHECKPOINTS)
    known = {name for name in resumable if (Path(folder or "") / name).exists()}
    try:
        plan = run_steps(bench, plan)
    except (PlanError, NotFiniteError):
        # The same call would end so again, and no other could go on from here.
        _forget(folder, [name for name in resumable if name not in known])
        raise
    if folder:
        for name, file in FOUND_FILES.items():
            if name in bench.found:
                write_json(folder / file, bench.found[name])
        if "losses" in bench.found:
            write_json(folder / LOSSES_FILE, bench.found["losses"])
        save_plan(plan, folder)
        _forget(folder, resumable)
    return plan


def _forget(folder: Path | None, names: Iterable[str]) -> None:
    """Remove what an interrupted run would go on from."""
    for place in (folder / name for name in names if folder):
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)


def run_steps(bench: Bench, plan: Plan) -> Plan:
    """All steps of the plan's methods; those that an interrupted run has done are taken from it."""
    recipe = hashlib.sha256(
        json.dumps(
            [plan.to_json(), bench.how.model_dump(mode="json"), len(bench.images), bench.max_images]
        ).encode()
    ).hexdigest()
    done, plan = _resumed(bench, plan, recipe)
    for name in steps_of(plan):
        if name in done:
            continue
        plan = STEPS[name](bench, plan)
        done.append(name)
        if bench.folder:
            # In one file, so that no interrupt leaves a plan of one step and the state of another.
            state = {"recipe": recipe, "done": done, "found": bench.found}
            state["digest"] = _digest(done, bench.found)
            unfinished = plan.with_(recipe=plan.recipe | {UNFINISHED: state})
            save_plan(unfinished, bench.folder / UNFINISHED)
    used, skipped = bench.counted()
    found: dict[str, Any] = {"images": len(bench.images), "skipped": len(skipped)}
    found |= {"calibration_images": used}
    if counted := left_out(skipped, bench.given):
        found["left_out"] = counted
    if trained := bench.how.model_dump(mode="json", exclude_defaults=True):
        found["how"] = trained
    return plan.with_(recipe=plan.recipe | found)


def _digest(done: list[str], found: dict[str, Any]) -> str:
    """Tells whether the state of an unfinished run is as it was saved."""
    state = json.loads(json.dumps([done, found]))  # as it comes back
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _resumed(bench: Bench, plan: Plan, recipe: str) -> tuple[list[str], Plan]:
    """The steps that are done, and the plan they have made."""
    folder = bench.folder / UNFINISHED if bench.folder else None
    if folder is None or not (folder / PLAN_FILE).is_file():
        return [], plan
    try:
        plan = load(folder)
        state = plan.recipe[UNFINISHED]
        theirs, done, found = state["recipe"], list(state["done"]), dict(state["found"])
        if state["digest"] != _digest(done, found):
            raise ValueError("what it found was changed")
    except (PlanError, KeyError, TypeError, ValueError) as error:
        raise PlanError(f"{folder} is damaged ({error}): remove it to start again") from None
    if theirs != recipe:
        raise PlanError(
            f"{bench.folder} holds an unfinished run with other settings, pictures or model: choose "
            f"another folder, or remove {folder}"
        )
    bench.found |= found
    rest = {name: value for name, value in plan.recipe.items() if name != UNFINISHED}
    return done, plan.with_(recipe=rest)


def _draft(bench: Bench, method: Settings | Sequence[Settings] | Plan | str, source: str | None) -> Plan:
    """The plan before any step; PlanError now, and not after the work, if it does not fit the model."""
    if isinstance(method, str):
        method = method_named(method).config().completed()
    plan = as_plan(method)
    for training, kind in TRAINED.items():
        if getattr(bench.how, training) is not None and plan.find(kind) is None:
            raise PlanError(f"{training} is of {kind.__name__}, and the plan has {plan.name}")
    trial = plan
    if (sve := plan.find(SVE)) and sve.layers == "auto":
        layers = free_layers(plan, bench.model, bench.family)
        if not layers and bench.family.global_layers(bench.model):
            others = " and ".join(type(config).__name__ for config in plan.methods if config != sve)
            raise PlanError(f"{others} leaves no layer to SVE: name fewer layers there")
        trial = plan.changed(sve.model_copy(update={"layers": layers[:1]}))
    trial = with_layers(trial, bench.model, bench.family)
    shapes = named_shapes(trial, bench.model, bench.family)
    resolved = resolve(blank(trial, shapes), bench.model, bench.family)
    methods = [
        config if isinstance(config, SVE) and config.layers == "auto" else fitted
        for config, fitted in zip(plan.methods, resolved.methods, strict=True)
    ]
    return plan.with_(
        methods=methods,
        model=identity(bench.model, bench.family),
        source=source or plan.source,
        resolution=(bench.first().shape[2], bench.first().shape[3]),
        versions=versions(),
        reasons=(),
        layers=(),
    )
