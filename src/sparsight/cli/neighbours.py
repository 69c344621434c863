"""`sparsight neighbours`: which pictures of a sink are like a given one."""

from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli.app import app, say
from sparsight.cli.options import JsonOption, write


@app.command()
def neighbours(
    sink: Annotated[Path, typer.Argument(metavar="SINK", help="folder of sparsight encode")],
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="a picture file")],
    count: Annotated[int, typer.Option(min=1, help="how many")] = 12,
    column: Annotated[
        str | None, typer.Option(help="vector to compare: pooled, cls, tap5  \\[default: the first]")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="page with the pictures  \\[default: SINK/neighbours.html]")
    ] = None,
    index: Annotated[
        bool, typer.Option("--index", help="search faiss's index, made at first, in place of all")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Find the pictures of a sink that are most like a picture, by cosine, and show them."""
    from sparsight.encode.gallery import write_gallery
    from sparsight.encode.nearest import neighbours as search
    from sparsight.encode.reading import open_sink

    found = search(sink, picture, count, column, index)
    write([{"id": match.id, "cosine": match.cosine} for match in found], json)
    for match in found:
        typer.echo(f"{match.cosine:.4f}  {match.id}")
    where = write_gallery(page or sink / "neighbours.html", open_sink(sink), picture, found)
    say(f"page: {where}")
