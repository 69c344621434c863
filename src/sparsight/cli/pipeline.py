"""The verbs of the pipeline, one for each stage."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsight.cli.app import app, say
from sparsight.cli.options import (
    CheckpointOption,
    ImagesOption,
    JsonOption,
    MaxImagesOption,
    ModelArgument,
    ModuleOption,
    PretrainedOption,
    ResolutionOption,
    model_of,
    open_model,
    report_skipped,
    write,
)
from sparsight.cli.report import finish, remember_command
from sparsight.cli.search import (
    LatencyOption,
    MaxLossOption,
    PresetOption,
    SeedOption,
    SpeedupOption,
    StartOption,
    TableOption,
    TrialsOption,
    images_or_refused,
    pictures_of_demo,
    run_search,
)
from sparsight.errors import SparsightError
from sparsight.images import parse_resolution


class Scorer(StrEnum):
    """How tokens are ranked."""

    exact = "exact"
    sampled = "sampled"
    linear = "linear"


class Method(StrEnum):
    """Methods `optimize` offers."""

    sve = "sve"
    spot = "spot"
    sparsevit = "sparsevit"


class SelectBy(StrEnum):
    """How `optimize` chooses layers."""

    damage = "damage"
    indicator = "indicator"


class Train(StrEnum):
    """Which weights the distillation changes."""

    blocks = "blocks"
    all = "all"


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the run", show_default=False)],
    resolution: ResolutionOption = "1024",
    json: JsonOption = None,
    scenes: Annotated[int, typer.Option(min=1, help="held-out scenes to evaluate on")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="timed repeats of each arm")] = 5,
    full: Annotated[
        bool, typer.Option(help="distil here instead of using the package's result")
    ] = False,
) -> None:
    """Run the whole pipeline on the embedded encoder, on scenes it has never seen."""
    from sparsight.demo.run import run_demo

    size = parse_resolution(resolution)
    remember_command(out)
    result = run_demo(out, size, scenes, repeats, full, say=say)
    write(result, out / "demo.json", json)
    from sparsight import tables
    from sparsight.demo import encoder
    from sparsight.demo.run import measuring_pictures
    from sparsight.run import load

    tables.show_demo(result)
    finish(out, encoder.load(), load(out), measuring_pictures(size), max_images=8, resolution=size)


@app.command()
def analyze(
    model: ModelArgument,
    images: ImagesOption,
    resolution: ResolutionOption = "1024",
    json: JsonOption = None,
    max_images: MaxImagesOption = 16,
    pretrained: PretrainedOption = False,
    checkpoint: CheckpointOption = None,
    module: ModuleOption = None,
) -> None:
    """Show where a model's attention is sparse, layer by layer.  Changes nothing."""
    from sparsight import tables
    from sparsight.stages import calibrate

    loaded, folder = open_model(model, images, resolution, pretrained, checkpoint, module)
    found = calibrate.analyze(loaded.model, folder, max_images, module=module)
    write(found.model_dump(mode="json"), json)
    tables.show_analysis(found)
    report_skipped(found.skipped)


@app.command()
def optimize(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="folder for the run", show_default=False)],
    images: Annotated[
        Path | None, typer.Option(help="folder of unlabelled images", show_default=False)
    ] = None,
    method: Annotated[Method, typer.Option(help="how to make it sparse")] = Method.sve,
    resolution: ResolutionOption = "1024",
    json: JsonOption = None,
    layers: Annotated[str, typer.Option(help='"auto", "all", or like 6-11 or 3,4,8')] = "auto",
    keep: Annotated[float, typer.Option(help="fraction of the tokens kept")] = 0.125,
    scorer: Annotated[Scorer, typer.Option(help="how tokens are ranked")] = Scorer.sampled,
    select_by: Annotated[SelectBy, typer.Option(help="how --layers auto chooses")] = SelectBy.damage,
    max_error: Annotated[
        float, typer.Option(min=0, help="with damage: how far the tokens that stand out may move")
    ] = 0.12,
    reuse: Annotated[bool, typer.Option(help="let consecutive layers share a pattern")] = True,
    distill: Annotated[bool, typer.Option(help="adapt the weights too (the whole of SVE)")] = False,
    steps: Annotated[int, typer.Option(min=1, help="distillation steps")] = 300,
    batch: Annotated[int, typer.Option(min=1, help="pictures per distillation step")] = 1,
    learning_rate: Annotated[
        float | None, typer.Option(help="of the distillation  [default: 0.025 / width]")
    ] = None,
    train: Annotated[Train, typer.Option(help="weights the distillation changes")] = Train.blocks,
    bfloat16: Annotated[bool, typer.Option(help="distil in mixed precision")] = False,
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
    """Make a model sparse: choose layers, adapt them, and save the result as a run folder.

    Training-free and done in minutes by default.  An interrupted --distill goes on where it stopped
    when the same command is given again.  With a budget (--speedup, --latency-ms or --max-loss) the
    settings are searched, and the whole front is saved.
    """
    import sparsight
    from sparsight import tables
    from sparsight.stages import optimize as stage

    budget = {"speedup": speedup, "latency_ms": latency_ms, "max_loss": max_loss}
    budgeted = any(value is not None for value in budget.values())
    if method is not Method.sve and not budgeted:
        raise SparsightError(
            f"--method {method.value} is searched: give --speedup, --latency-ms or --max-loss (or see "
            f"docs/{method.value}.md for the way without a search)"
        )
    images_or_refused(images, model, budgeted)
    size = parse_resolution(resolution)
    if images is None:
        from sparsight.models import load_model

        loaded, folder = load_model(model, size), pictures_of_demo(size)
    else:
        loaded, folder = open_model(model, images, resolution, pretrained, checkpoint, module)
    if loaded.random_weights:
        say("these are random weights: speed means something, quality does not")
    remember_command(out)
    settings = _checked(sparsight.SVE, layers=_layers(layers), keep=keep, scorer=scorer.value)
    if budgeted:
        if distill or layers != "auto":
            raise SparsightError(
                "--layers and --distill are not for a search: leave them out, or the budget"
            )
        from sparsight.stages.search import Search

        how = _checked(Search, trials=trials, seed=seed, preset=preset)
        plan = run_search(
            model, loaded.model, folder, out, _searched(method, settings), budget, how, latency_table,
            start, max_images, module, size,
        )  # fmt: skip
    else:
        distillation = None
        if distill:
            distillation = _checked(
                sparsight.Distillation, steps=steps, batch=batch, learning_rate=learning_rate,
                train=train.value, precision="bfloat16" if bfloat16 else "float32",
            )  # fmt: skip
        plan = stage.optimize(
            loaded.model, folder, settings, out, distillation, select_by.value, max_error,
            reuse_overlap=stage.REUSE_OVERLAP if reuse else None, max_images=max_images, source=model,
            module=module,
        )  # fmt: skip
    from json import loads

    write(loads(plan.to_json()), json)
    tables.show_plan(plan)
    finish(out, loaded.model, plan, folder, max_images, module=module)
    say(f"saved in {out}; next: sparsight measure {out}" + (f" --images {images}" if images else ""))


@app.command()
def measure(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="run folder of optimize or demo")],
    images: Annotated[Path | None, typer.Option(help="folder of images for the fidelity")] = None,
    resolution: Annotated[
        list[str] | None, typer.Option(help="picture size; repeat for several  [default: the run's]")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="repeat for several  [default: 1]")
    ] = None,
    json: JsonOption = None,
    repeats: Annotated[int, typer.Option(min=1, help="timed repeats of each arm")] = 7,
    max_images: MaxImagesOption = 16,
    pretrained: PretrainedOption = False,
    checkpoint: CheckpointOption = None,
    module: ModuleOption = None,
) -> None:
    """Measure dense against sparse in one run: time, memory, FLOPs and how far the features moved."""
    from sparsight import tables
    from sparsight.images import ImageFolder, Images
    from sparsight.stages import measure as stage

    plan, loaded, own = model_of(run, None, pretrained, checkpoint)
    sizes = [parse_resolution(text) for text in resolution] if resolution else [own]
    folder: Images | None = None
    if images:
        folder = ImageFolder(images, plan.resolution, loaded.mean, loaded.std)
    elif plan.source == "demo":
        from sparsight.demo.run import measuring_pictures

        folder = measuring_pictures(plan.resolution)
    module = module or plan.recipe.get("module")
    result = stage.measure(loaded.model, plan, folder, sizes, batch or [1], repeats, max_images, module)
    write(result, run / "measure.json", json)
    tables.show_measurement(result)
    finish(run, loaded.model, plan, folder, measured=result, module=module)
    report_skipped(result.get("fidelity", {}).get("skipped", ()))


def _searched(method: Method, sve: Any) -> Any:
    """What a search starts from: SVE as given, or another method as it comes."""
    from sparsight.methods import METHODS

    return sve if method is Method.sve else METHODS[method.value].config()


def _layers(text: str) -> str | tuple[int, ...]:
    """Layer numbers from "auto", "all", "6-11" or "3,4,8"."""
    if text in ("auto", "all"):
        return text
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            numbers.extend(range(int(first), int(last or first) + 1))
        except ValueError:
            raise SparsightError(f"--layers {text!r}: not like 6-11 or 3,4,8") from None
    return tuple(numbers)


def _checked(kind: Any, **settings: Any) -> Any:
    """Settings of `kind`, with a clear sentence if one is out of range."""
    from pydantic import ValidationError

    try:
        return kind(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:1])
        raise SparsightError(f"{name or kind.__name__}: {first['msg']}") from None
