"""`sparsight report`, and how other verbs end: measured, a few pictures looked at, and on a page."""

import copy
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsight.cli.app import app, say
from sparsight.cli.options import own_run, place_checked
from sparsight.errors import SparsightError

SHOWN = 4  # pictures in the page: the worst, and one from the middle
REPEATS = 3  # enough for a first figure; `sparsight measure` takes more


@app.command()
def report(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="run folder, or the JSON of compare",
            show_default=False,
            callback=own_run,
        ),
    ],
    figures: Annotated[
        Path | None, typer.Option(help="also every chart as PNG and SVG in this folder")
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="also all data of the page here", callback=place_checked),
    ] = None,
) -> None:
    """Write the page of a run: what was gained and lost, pictures and curves.  Runs no model."""
    from sparsight.report import write_report

    say(f"written: {write_report(run, figures, json)}")


def finish(
    run: Path, model: Any, plan: Any, images: Any, max_images: int = 16, measured: Any = None,
    module: str | None = None, resolution: tuple[int, int] | None = None,
) -> None:  # fmt: skip
    """Measure the plan of a run folder, look at its worst pictures, and write the page.

    `resolution` is that of the pictures, if it is not the plan's.  The run itself is safe before this is
    called: whatever fails here is said and costs nothing else.
    """
    from sparsight.attach import apply
    from sparsight.families import encoder_in
    from sparsight.files import write_json
    from sparsight.run import LOOK_FILE
    from sparsight.stages.look import look, save_looks
    from sparsight.stages.measure import measure

    try:
        encoder = encoder_in(model, module)
        if measured is None:
            measured = measure(
                encoder, plan, images, [resolution or plan.resolution], [1], REPEATS, max_images
            )
            write_json(run / "measure.json", measured)
        if images is not None:
            places = shown_places(measured["fidelity"]["by_image"])
            sparse = apply(copy.deepcopy(encoder), plan)
            save_looks(list(look(encoder, sparse, images, places, shown_layers(plan))), run)
        else:
            (run / LOOK_FILE).unlink(missing_ok=True)  # of pictures that this measurement had not
    except (SparsightError, RuntimeError, OSError) as error:  # RuntimeError: out of memory
        say(f"the run is saved in {run}, but it could not be measured for the report: {error}")
    write_page(run)


def write_page(place: Path) -> None:
    """The page, or the reason why there is none; the run is safe either way."""
    from sparsight.report import write_report

    try:
        say(f"report: {write_report(place)}")
    except SparsightError as error:
        say(f"no report: {error}")


@contextmanager
def remembered(run: Path) -> Iterator[None]:
    """Keep the command that makes the run, for the page, before the work, which may be interrupted.

    If it is refused before any work is saved, the folder is as it was.
    """
    from sparsight.files import check_writable, write_text
    from sparsight.images import shown
    from sparsight.run import COMMAND_FILE

    file, was_there = run / COMMAND_FILE, run.is_dir()
    check_writable(run)
    old = file.read_bytes() if file.is_file() else None
    before = set(run.iterdir()) - {file}
    write_text(file, shlex.join(["sparsight", *map(shown, sys.argv[1:])]) + "\n")
    try:
        yield
    except SparsightError:
        if set(run.iterdir()) - {file} == before:
            file.unlink() if old is None else file.write_bytes(old)
            if not was_there:
                run.rmdir()
        raise


def shown_places(rows: list[dict[str, Any]]) -> list[int]:
    """Places of the pictures whose features moved furthest, and of one from the middle."""
    ordered = sorted(rows, key=lambda row: -row["relative_error"])
    chosen = ordered[: SHOWN - 1]
    if len(ordered) >= SHOWN:
        chosen = [*chosen, ordered[max(SHOWN - 1, len(ordered) // 2)]]
    return [row["place"] for row in chosen]


def shown_layers(plan: Any) -> list[int]:
    """The first, middle and last of SVE's layers; no other method keeps tokens layer by layer."""
    from sparsight.methods import SVE

    sve = plan.find(SVE)
    if sve is None:
        return []
    layers = sve.named_layers
    return sorted({layers[0], layers[len(layers) // 2], layers[-1]})
