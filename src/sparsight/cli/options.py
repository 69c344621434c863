"""What the verbs share: options with their help, and what stands behind them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsight.cli.app import say
from sparsight.errors import SparsightError

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="demo, timm:NAME, hf:NAME, or a folder")
]
ImagesOption = Annotated[Path, typer.Option(help="folder of unlabelled images", show_default=False)]
JsonOption = Annotated[Path | None, typer.Option("--json", help="also write the result here")]
ResolutionOption = Annotated[
    str, typer.Option(help="picture size: 1024 (square) or 768x1024 (height x width)")
]
PretrainedOption = Annotated[bool, typer.Option(help="fetch the weights from the hub")]
CheckpointOption = Annotated[
    Path | None, typer.Option(help="other weights for MODEL: a local .safetensors file")
]
ModuleOption = Annotated[
    str | None, typer.Option(help="path of the vision encoder in a larger model, like vision_tower")
]
MaxImagesOption = Annotated[int, typer.Option(min=1, help="images to calibrate on, at most")]


def open_model(
    model: str, images: Path, resolution: str, pretrained: bool, checkpoint: Path | None,
    module: str | None,
) -> tuple[Any, Any]:  # fmt: skip
    """The loaded model and its pictures, after the cheap checks."""
    from sparsight.families import encoder_in, family_of
    from sparsight.images import ImageFolder, check_resolution, parse_resolution
    from sparsight.models import load_model

    size = parse_resolution(resolution)
    ImageFolder(images, size)  # a missing or empty folder is told before a model is loaded
    loaded = load_model(model, size, pretrained, checkpoint)
    encoder = encoder_in(loaded.model, module)
    check_resolution(size, family_of(encoder).patch_px(encoder))
    return loaded, ImageFolder(images, size, loaded.mean, loaded.std)


def model_of(
    run: Path, resolution: str | None, pretrained: bool, checkpoint: Path | None
) -> tuple[Any, Any, tuple[int, int]]:
    """The plan in a run folder, the loaded model it was made for, and the resolution to use."""
    from sparsight.images import parse_resolution
    from sparsight.models import load_model
    from sparsight.run import load

    plan = load(run)
    if plan.source is None or plan.resolution is None:
        raise SparsightError(f"{run} does not say which model it was made for: use the verb in Python")
    size = parse_resolution(resolution) if resolution else plan.resolution
    return plan, load_model(plan.source, plan.resolution, pretrained, checkpoint), size


def write(result: Any, *places: Path | None) -> None:
    """`result` as JSON to each place that was named."""
    from sparsight.files import write_json

    for place in places:
        if place is not None:
            write_json(place, result)


def report_skipped(skipped: Any, what: str = "unreadable images") -> None:
    """Say how many pictures were left out."""
    if skipped:
        say(f"{len(skipped)} {what} were skipped, the first: {skipped[0]}")
