"""`sparsight explore`: a local page to try settings on single pictures."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsight.cli.app import app, say
from sparsight.cli.options import (
    CheckpointOption,
    ModuleOption,
    PretrainedOption,
    loaded_model,
    model_of,
)


@app.command()
def explore(
    model: Annotated[
        str, typer.Argument(metavar="MODEL_OR_RUN", help="as elsewhere, or a run folder of optimize")
    ],
    images: Annotated[Path | None, typer.Option(help="folder of images to choose from")] = None,
    resolution: Annotated[
        str | None, typer.Option(help="picture size  \\[default: the run's, or 512]")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the plans that are saved")] = Path(
        "runs/explore"
    ),
    host: Annotated[str, typer.Option(help="address to listen on; by default this machine only")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int | None, typer.Option(help="port  \\[default: the first free one from 7860]")
    ] = None,
    pretrained: PretrainedOption = False,
    checkpoint: CheckpointOption = None,
    module: ModuleOption = None,
) -> None:
    """Open a local page: drop in a picture, choose a setting, and see what it keeps, costs and saves."""
    from sparsight.explore.page import serve

    session = session_of(model, images, resolution, out, pretrained, checkpoint, module)
    serve(session, host, port, say)


def session_of(
    model: str, images: Path | None, resolution: str | None, out: Path, pretrained: bool,
    checkpoint: Path | None, module: str | None,
) -> Any:  # fmt: skip
    """The explorer's session for a model or a run."""
    from sparsight.explore.session import Session
    from sparsight.families import encoder_in
    from sparsight.images import ImageFolder, parse_resolution
    from sparsight.run import is_run
    from sparsight.stages.pictures import check_takes

    plan = None
    if is_run(model):
        plan, loaded, size = model_of(Path(model), resolution, pretrained, checkpoint)
        module = module or plan.recipe.get("module")
    else:
        size = parse_resolution(resolution or "512")
        loaded = loaded_model(model, size, pretrained, checkpoint)
    encoder = encoder_in(loaded.model, module)
    check_takes(encoder, size)
    if loaded.random_weights:
        say("these are random weights: speed means something, quality does not")
    folder = ImageFolder(images, size, loaded.mean, loaded.std) if images else None
    if folder is None and loaded.source == "demo":
        from sparsight.demo.run import measuring_pictures

        folder = measuring_pictures(size)  # type: ignore[assignment]
    return Session(
        encoder, size, tuple(loaded.mean), tuple(loaded.std), out, plan, loaded.source, folder, module
    )
