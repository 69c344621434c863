"""What `sparsight optimize` does when it is given a budget."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsight.cli.app import say
from sparsight.errors import SparsightError

SpeedupOption = Annotated[
    float | None, typer.Option(help="budget: search the settings that are so much faster than dense")
]
LatencyOption = Annotated[
    float | None, typer.Option("--latency-ms", help="budget: milliseconds a picture")
]
MaxLossOption = Annotated[
    float | None,
    typer.Option(
        help="budget: points of quality that may be lost (the demo: of mIoU; else: of the cosine)"
    ),
]
TrialsOption = Annotated[int, typer.Option(min=1, help="of the search: different settings to try")]
SeedOption = Annotated[int, typer.Option(help="of the search")]
PresetOption = Annotated[str, typer.Option(help="of the search: nsga2, or evolution as in SparseViT")]
TableOption = Annotated[
    Path | None,
    typer.Option(help="of the search: latency table to use  \\[default: measured, in --out]"),
]
StartOption = Annotated[
    Path | None, typer.Option(help="of the search: a run folder whose weights every candidate uses")
]
SEARCH_SCENES = 16  # half of the few that trials take are for maps, half for the error


def run_search(
    model: str, loaded: Any, images: Any, out: Path, methods: Any, budget: dict[str, float | None],
    search: Any, table: Path | None, start: Path | None, max_images: int, module: str | None,
    resolution: tuple[int, int],
) -> Any:  # fmt: skip
    """The plan that meets the budget; no `methods`: those that the search takes by itself."""
    from sparsight.run import load
    from sparsight.stages.search import Budget
    from sparsight.stages.search import search as stage

    judge = None
    if model == "demo":
        from sparsight.demo.compare import by_miou

        judge = by_miou(resolution, max_images, say)
    return stage(
        loaded, images, Budget(**budget), out, methods or None, search, load(start) if start else None,
        table, max_images, model, module, judge,
    )  # fmt: skip


def best_for(model: Any, module: str | None) -> list[str]:
    """The names of the methods that are searched where none is named."""
    from sparsight.families import encoder_in, family_of
    from sparsight.stages.search.parts import best_methods

    encoder = encoder_in(model, module)
    return list(best_methods(encoder, family_of(encoder)))


def check_searched(
    keep: float | None, distill: bool, start: Path | None, named: bool, more: bool
) -> None:
    """SparsightError if something is given that the search chooses, or that nobody takes."""
    if distill:
        raise SparsightError("a search trains nothing: distil first, and search with --start RUN")
    if keep is not None:
        raise SparsightError(
            "how much is kept is what the search chooses: leave out --keep, or the budget"
        )
    if start is not None and more and not named:
        raise SparsightError(
            "without --method the search takes the methods of --start as they are: name them, or leave "
            "out --layers, --score, --set and --published"
        )


def pictures_of_demo(resolution: tuple[int, int], searching: bool) -> Any:
    """Scenes to calibrate or search on; the reported quality is of others."""
    from sparsight.demo.evaluate import ScenePictures
    from sparsight.demo.run import CALIBRATION_SCENES, CALIBRATION_SEED
    from sparsight.demo.scenes import SceneSet

    count = SEARCH_SCENES if searching else CALIBRATION_SCENES
    return ScenePictures(SceneSet(count, resolution, CALIBRATION_SEED))


def images_or_refused(images: Path | None, model: str) -> None:
    """Only the demo draws its own."""
    if images is None and model != "demo":
        raise SparsightError("give a folder of pictures with --images DIR")
