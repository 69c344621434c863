"""`sparsight doctor`: what a model would gain on this machine, in seconds; changes nothing."""

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli.app import app, say
from sparsight.cli.options import (
    CheckpointOption,
    ModelArgument,
    ModuleOption,
    PretrainedOption,
    loaded_model,
)
from sparsight.errors import UnsupportedModelError


@app.command()
def doctor(
    model: ModelArgument,
    resolution: Annotated[
        str | None,
        typer.Option(help="picture size: 1024 or 768x1024 (height x width)  \\[default: about 1024]"),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="folder of pictures to count")] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object in place of text")] = False,
    pretrained: PretrainedOption = False,
    checkpoint: CheckpointOption = None,
    module: ModuleOption = None,
) -> None:
    """Say what a model is, what sparsity would gain with it on this machine, and what to try first.

    Takes seconds: FLOPs are counted without running the model, single blocks are timed, and what is
    said of the whole model is scaled up from them.  Nothing is changed or written.
    """
    from sparsight.cli import diagnosis
    from sparsight.images import ImageFolder, parse_resolution
    from sparsight.stages import doctor as stage

    size = parse_resolution(resolution) if resolution else None
    start = size or (stage.SIDE, stage.SIDE)
    if images is not None:
        ImageFolder(images, start)  # a missing folder is told before a model is loaded
    loaded = loaded_model(model, start, pretrained, checkpoint)
    found = stage.doctor(loaded.model, size, images, module)
    found |= {"source": model, "random_weights": loaded.random_weights}
    if found["supported"]:
        options = ["--pretrained"] * pretrained
        options += ["--checkpoint", str(checkpoint)] if checkpoint else []
        options += ["--module", module] if module else []
        command = stage.verdict.command(found, options, str(images or "photos/"))
        found["verdict"]["command"] = command if found["verdict"]["settings"] else None
    if json:
        typer.echo(dumps(found, indent=1))
    else:
        diagnosis.show(found)
    if not found["supported"]:
        raise UnsupportedModelError(found["refusal"])
    if loaded.random_weights:
        say("these are random weights: speed means something, quality does not")
