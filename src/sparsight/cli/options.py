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


def place_checked(place: Path | None) -> Path | None:
    """A place for a file, refused before the work if nothing can be written there."""
    from sparsight.files import check_place

    if place is not None:
        check_place(place)
    return place


def own_run(place: Path) -> Path:
    """A run that a verb writes its results into: refused, before the work, if it is the hub's."""
    from sparsight.hub import is_snapshot, referred

    if (reference := referred(place)) or is_snapshot(place):
        repo = reference.repo if reference else "OWNER/NAME"
        raise SparsightError(
            f"{place} belongs to the hub, and results are written into the run: take a copy with "
            f"sparsight pull {repo} --out RUN, and give that"
        )
    return place


JsonOption = Annotated[
    Path | None, typer.Option("--json", help="also write the result here", callback=place_checked)
]
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


def loaded_model(
    model: str, resolution: tuple[int, int], pretrained: bool, checkpoint: Path | None
) -> Any:
    """MODEL; what was assumed or left out is said."""
    from sparsight.models import load_model

    loaded = load_model(model, resolution, pretrained, checkpoint)
    for note in loaded.notes:
        say(note)
    return loaded


def open_model(
    model: str, images: Path, resolution: str, pretrained: bool, checkpoint: Path | None,
    module: str | None,
) -> tuple[Any, Any]:  # fmt: skip
    """The loaded model and its pictures, after the cheap checks."""
    from sparsight.families import encoder_in
    from sparsight.images import ImageFolder, Reader, parse_resolution
    from sparsight.stages.pictures import check_takes

    size = parse_resolution(resolution)
    pictures = ImageFolder(images, size)  # a missing or empty folder is told before a model is loaded
    loaded = loaded_model(model, size, pretrained, checkpoint)
    check_takes(encoder_in(loaded.model, module), size, len(loaded.mean))
    pictures.mean, pictures.std = loaded.mean, loaded.std
    Reader(pictures).read(0)  # a folder of nothing but damaged files is told before anything is written
    return loaded, pictures


def model_of(
    run: Path, resolution: str | None, pretrained: bool, checkpoint: Path | None
) -> tuple[Any, Any, tuple[int, int]]:
    """The plan in a run folder, the loaded model it was made for, and the resolution to use."""
    from sparsight.images import parse_resolution
    from sparsight.run import load

    plan = load(run)
    if plan.source is None or plan.resolution is None:
        raise SparsightError(f"{run} does not say which model it was made for: use the verb in Python")
    size = parse_resolution(resolution) if resolution else plan.resolution
    return plan, loaded_model(plan.source, plan.resolution, pretrained, checkpoint), size


def write(result: Any, *places: Path | None) -> None:
    """`result` as JSON to each place that was named."""
    from sparsight.files import write_json

    for place in places:
        if place is not None:
            write_json(place, result)


def report_skipped(skipped: Any, images: Any = None) -> None:
    """`report_left_out` of the messages `skipped`, after reading `images`."""
    from sparsight.images import left_out

    counted = left_out(skipped, images)
    report_left_out(counted + (f"; the first unread: {skipped[0]}" if skipped else ""), images)


def report_left_out(counted: str, images: Any = None) -> None:
    """Say what was left out, `counted` by reason, and what of `images` was read in a way of its own."""
    if counted:
        say(f"left out {counted}")
    for note in getattr(images, "notes", ()):
        say(f"note: {note}")
