"""`sparsight optimize`: one pipeline for every method, and the search under a budget."""

from enum import StrEnum
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsight.cli.app import app, say
from sparsight.cli.options import (
    CheckpointOption,
    JsonOption,
    MaxImagesOption,
    ModelArgument,
    ModuleOption,
    PretrainedOption,
    ResolutionOption,
    loaded_model,
    open_model,
    report_left_out,
    write,
)
from sparsight.cli.report import finish, remembered
from sparsight.cli.search import (
    LatencyOption,
    MaxLossOption,
    PresetOption,
    SeedOption,
    SpeedupOption,
    StartOption,
    TableOption,
    TrialsOption,
    best_for,
    check_searched,
    images_or_refused,
    pictures_of_demo,
    run_search,
)
from sparsight.errors import SparsightError
from sparsight.images import left_out, parse_resolution

MOST_LAYERS = 10_000  # of any model


class SelectBy(StrEnum):
    """How `optimize` chooses layers."""

    damage = "damage"
    indicator = "indicator"


class Train(StrEnum):
    """Which weights the distillation changes."""

    blocks = "blocks"
    all = "all"


@app.command()
def optimize(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="folder for the run", show_default=False)],
    images: Annotated[
        Path | None, typer.Option(help="folder of unlabelled images", show_default=False)
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="sve, early-exit, mlp-routing, spot, sparsevit, ...; repeat to combine; with a "
            "budget and none, what combines best is searched  \\[default: sve]"
        ),
    ] = None,
    resolution: ResolutionOption = "1024",
    json: JsonOption = None,
    layers: Annotated[str, typer.Option(help='of sve: "auto", "all", or like 6-11 or 3,4,8')] = "auto",
    keep: Annotated[
        float | None, typer.Option(help="fraction kept by the first method  \\[default: the method's]")
    ] = None,
    score: Annotated[
        str | None, typer.Option(help="how the first method ranks  \\[default: the method's]")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="any setting, as early-exit.keep=0.3 or spot.rho=0.7; repeat"),
    ] = None,
    published: Annotated[
        bool, typer.Option(help="nothing completes what is skipped, as in the papers")
    ] = False,
    select_by: Annotated[SelectBy, typer.Option(help="how --layers auto chooses")] = SelectBy.damage,
    max_error: Annotated[
        float, typer.Option(min=0, help="with damage: how far the tokens that stand out may move")
    ] = 0.12,
    reuse: Annotated[bool, typer.Option(help="let consecutive layers share a pattern")] = True,
    distill: Annotated[
        bool, typer.Option(help="adapt the weights too, of sve or sparsevit, after completion")
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="training steps  \\[default: the method's; sve's distillation ends by itself, when it "
            "no longer helps on pictures held out]",
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help="at most, of a distillation that ends by itself")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="pictures per training step")] = 1,
    learning_rate: Annotated[
        float | None, typer.Option(help="of the training  \\[default: what suits the model's width]")
    ] = None,
    train: Annotated[Train, typer.Option(help="weights that sve's distillation changes")] = Train.blocks,
    bfloat16: Annotated[bool, typer.Option(help="train in mixed precision")] = False,
    speedup: SpeedupOption = None,
    latency_ms: LatencyOption = None,
    max_loss: MaxLossOption = None,
    trials: TrialsOption = 60,
    seed: SeedOption = 0,
    preset: PresetOption = "nsga2",
    latency_table: TableOption = None,
    start: StartOption = None,
    max_images: MaxImagesOption = 16,
    pretrained: PretrainedOption = False,
    checkpoint: CheckpointOption = None,
    module: ModuleOption = None,
) -> None:
    """Make a model sparse by any method, or several together, and save the result as a run folder.

    Training-free and done in minutes by default: what is skipped is completed by linear maps, fitted
    on your pictures.  Interrupted, it goes on where it stopped when the same command is given again.
    With a budget (--speedup, --latency-ms or --max-loss) the settings of the methods are searched, of
    those that combine best if none is named, and the whole front is saved.
    """
    from sparsight import tables
    from sparsight.methods import LowerResolution
    from sparsight.stages.optimize import optimize as stage

    if minutes is not None and not distill:
        raise SparsightError("--minutes limits the distillation of sve: give --distill too")
    budget = {"speedup": speedup, "latency_ms": latency_ms, "max_loss": max_loss}
    budgeted = any(value is not None for value in budget.values())
    given = {"keep": keep, "score": score}
    options = (layers_of(layers), given, setting or [], published)
    if budgeted:
        more = bool(layers != "auto" or score or setting or published)
        check_searched(keep, distill, start, bool(method), more)
    methods = settings_of(method or ["sve"], *options) if method or not budgeted else []
    images_or_refused(images, model)
    size = parse_resolution(resolution)
    if images is None:
        loaded = loaded_model(model, size, pretrained, checkpoint)
        folder = pictures_of_demo(size, budgeted)
    else:
        loaded, folder = open_model(model, images, resolution, pretrained, checkpoint, module)
    if loaded.random_weights:
        say("these are random weights: speed means something, quality does not")
    with remembered(out):
        if budgeted:
            if not method and start is None:
                methods = settings_of(best_for(loaded.model, module), *options)
            from sparsight.stages.search import Search

            how: dict[str, Any] = {"trials": trials, "seed": seed, "preset": preset}
            plan = run_search(
                loaded.source, loaded.model, folder, out, methods, budget, Search(**how),
                latency_table, start, max_images, module, size,
            )  # fmt: skip
        else:
            training: dict[str, Any] = {"batch": batch, "learning_rate": learning_rate} | (
                {"steps": steps} if steps else {}
            )
            limit = {} if minutes is None else {"minutes": minutes}
            training["precision"] = "bfloat16" if bfloat16 else "float32"
            plan = stage(
                loaded.model, folder, methods, out, select_by=select_by.value, max_error=max_error,
                reuse_overlap=0.6 if reuse else None, max_images=max_images, source=loaded.source,
                module=module,
                **trainings({type(m).__name__ for m in methods}, distill, training, train.value, limit),
            )  # fmt: skip
    write(loads(plan.to_json()), json)
    tables.show_plan(plan)
    report_left_out(plan.recipe.get("left_out") or left_out((), folder), folder)
    shown = f" --images {images}" if images else ""
    if plan.find(LowerResolution):  # which no model can be changed by
        say(f"saved in {out}; next: sparsight compare {model} --run {out} --json FILE{shown}")
        return
    finish(out, loaded.model, plan, folder, max_images, module=module)
    say(f"saved in {out}; next: sparsight measure {out}{shown}")


def trainings(
    methods: set[str], distill: bool, training: dict[str, Any], train: str, limit: dict[str, float]
) -> dict[str, Any]:
    """What is trained of the methods, by the names of their settings, and how."""
    import sparsight

    found: dict[str, Any] = {}
    if "SPOT" in methods:
        found["relevance"] = sparsight.RelevanceTraining(**training)
    if distill and "SVE" in methods:
        found["distillation"] = sparsight.Distillation(**(training | limit | {"train": train}))
    if distill and "SparseViT" in methods:
        found["adaptation"] = sparsight.Adaptation(**training)
    if limit and "distillation" not in found:
        raise SparsightError("--minutes limits the distillation of sve, which is not among the methods")
    if distill and not {"SVE", "SparseViT"} & methods:
        raise SparsightError("--distill adapts the weights to sve or sparsevit: name one of them")
    return found


def settings_of(
    names: list[str], layers: Any, first: dict[str, Any], more: list[str], published: bool
) -> list[Any]:
    """The settings of every method named, completed unless they are to be as `published`."""
    from sparsight.methods import method_named

    given: dict[str, dict[str, Any]] = {method_named(name).name: {} for name in names}
    if "sve" in given:
        given["sve"]["layers"] = layers
    elif layers != "auto":
        raise SparsightError("--layers is sve's: use --set, as in --set early-exit.after=[2]")
    given[names[0]] |= {key: value for key, value in first.items() if value is not None}
    for text in more:
        path, equals, value = text.partition("=")
        name, dot, key = path.rpartition(".")
        if not (equals and dot and name in given):
            raise SparsightError(
                f"--set {text!r}: not like METHOD.KEY=VALUE with one of {', '.join(given)}"
            )
        try:
            given[name][key] = loads(value)
        except (JSONDecodeError, RecursionError):
            given[name][key] = value
    found = []
    for name, values in given.items():
        config = method_named(name).config
        start = config().completed().model_dump()
        if published:  # those of our own complete by default
            start = {"completion": "last"} if getattr(config(), "completion", "") == "map" else {}
        found.append(config(**(start | values)))
    return found


def layers_of(text: str) -> str | tuple[int, ...]:
    """Layer numbers from "auto", "all", "6-11" or "3,4,8"."""
    if text in ("auto", "all"):
        return text
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal() and int(last or first) < MOST_LAYERS):
            raise SparsightError(f"--layers {text!r}: not like 6-11 or 3,4,8")
        numbers.extend(range(int(first), int(last or first) + 1))
    return tuple(numbers)
