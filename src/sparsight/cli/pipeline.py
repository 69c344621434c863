"""The verbs of the pipeline, one for each stage."""

from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli.app import app, say
from sparsight.cli.export import opened_file
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
    own_run,
    report_skipped,
    write,
)
from sparsight.cli.report import finish, remembered
from sparsight.images import parse_resolution


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the run", show_default=False)],
    resolution: ResolutionOption = "1024",
    json: JsonOption = None,
    scenes: Annotated[int, typer.Option(min=1, help="held-out scenes to evaluate on")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="timed repeats of each arm")] = 5,
    full: Annotated[
        bool, typer.Option(help="distil sve as well, from where completion left it")
    ] = False,
) -> None:
    """Run the whole pipeline on the embedded encoder, on scenes it has never seen."""
    from sparsight.demo.run import run_demo

    size = parse_resolution(resolution)
    with remembered(out):
        result = run_demo(out, size, scenes, repeats, full, say=say)
    write(result, out / "demo.json", json)
    from sparsight import tables
    from sparsight.demo import encoder
    from sparsight.demo.run import measuring_pictures
    from sparsight.run import load

    tables.show_demo(result)
    finish(out, encoder.load(), load(out), measuring_pictures(size), max_images=4, resolution=size)


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
    """Show where attention is sparse and how linear the rest is, layer by layer.  Changes nothing."""
    from sparsight import tables
    from sparsight.stages import calibrate

    loaded, folder = open_model(model, images, resolution, pretrained, checkpoint, module)
    found = calibrate.analyze(loaded.model, folder, max_images, module=module)
    write(found.model_dump(mode="json"), json)
    tables.show_analysis(found)
    report_skipped(found.skipped, folder)


@app.command()
def measure(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="run folder, or a file of export", callback=own_run)
    ],
    images: Annotated[Path | None, typer.Option(help="folder of images for the fidelity")] = None,
    resolution: Annotated[
        list[str] | None, typer.Option(help="picture size; repeat for several  \\[default: the run's]")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="repeat for several  \\[default: 1]")
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
    from sparsight.families import encoder_in
    from sparsight.images import ImageFolder, Images
    from sparsight.stages import measure as stage

    exported, engine = None, None
    if run.is_file():
        exported, plan, loaded, engine = opened_file(run, pretrained, checkpoint)
        own = exported.manifest.shapes.largest
    else:
        plan, loaded, own = model_of(run, None, pretrained, checkpoint)
    sizes = [parse_resolution(text) for text in resolution] if resolution else [own]
    if exported is not None:
        exported.check([*sizes, plan.resolution] if images else sizes, batch or [1])
    folder: Images | None = None
    if images:
        folder = ImageFolder(images, plan.resolution, loaded.mean, loaded.std)
    elif plan.source == "demo":
        from sparsight.demo.run import measuring_pictures

        folder = measuring_pictures(plan.resolution)
    module = module or plan.recipe.get("module")
    if exported is not None:
        dense = encoder_in(loaded.model, module)
        result = stage.measure(
            dense, plan, folder, sizes, batch or [1], repeats, max_images, engine=engine
        )
        write(result | {"file": run.name, "format": exported.manifest.format}, json)
        tables.show_measurement(result)
        return report_skipped(result.get("fidelity", {}).get("skipped", ()), folder)
    result = stage.measure(loaded.model, plan, folder, sizes, batch or [1], repeats, max_images, module)
    write(result, run / "measure.json", json)
    tables.show_measurement(result)
    finish(run, loaded.model, plan, folder, measured=result, module=module)
    report_skipped(result.get("fidelity", {}).get("skipped", ()), folder)
