"""`sparsight compare`: every method that fits a model, side by side."""

from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli.app import app, say
from sparsight.cli.options import (
    CheckpointOption,
    MaxImagesOption,
    ModelArgument,
    ModuleOption,
    PretrainedOption,
    ResolutionOption,
    open_model,
    place_checked,
    report_skipped,
    write,
)
from sparsight.cli.report import write_page
from sparsight.errors import SparsightError


@app.command()
def compare(
    model: ModelArgument,
    json: Annotated[
        Path,
        typer.Option(
            "--json", help="write the result here, and the picture beside it", callback=place_checked
        ),
    ],
    images: Annotated[
        Path | None, typer.Option(help="folder of images; the demo draws its own scenes")
    ] = None,
    resolution: ResolutionOption = "1024",
    run: Annotated[
        list[Path] | None, typer.Option(help="also this run folder of the model; repeat for several")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="only this method; repeat for several  \\[default: all]")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="timed repeats of each row")] = 5,
    max_images: MaxImagesOption = 8,
    pretrained: PretrainedOption = False,
    checkpoint: CheckpointOption = None,
    module: ModuleOption = None,
) -> None:
    """Compare all methods that fit a model with the dense one and a lower resolution."""
    from sparsight import tables
    from sparsight.images import parse_resolution
    from sparsight.report.comparison import draw
    from sparsight.run import load

    plans = [load(folder) for folder in run or ()]
    if model == "demo" and images is None:
        if checkpoint is not None:
            raise SparsightError("the demo's own scenes are for its own weights: give --images DIR")
        from sparsight.demo.compare import compare_demo

        size = parse_resolution(resolution)
        result = compare_demo(size, max_images, repeats, plans, method or (), say)
    elif images is None:
        raise SparsightError("give a folder of pictures with --images DIR; only the demo draws its own")
    else:
        from sparsight.stages import compare as stage

        loaded, folder = open_model(model, images, resolution, pretrained, checkpoint, module)
        if loaded.random_weights:
            say("these are random weights: speed means something, quality does not")
        result = stage.compare(loaded.model, folder, plans, method or (), repeats, max_images, module)
        report_skipped(result["skipped"], folder)
        result["protocol"] |= {"source": model, "random_weights": loaded.random_weights}
    write(result, json)
    tables.show_comparison(result)
    draw(result, json.with_suffix(".svg"))
    say(f"written: {json} and {json.with_suffix('.svg')}")
    write_page(json)
