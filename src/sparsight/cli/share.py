"""`sparsight push` and `sparsight pull`: runs to the hub, and from it."""

from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli.app import app, say


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run folder", show_default=False)],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME", show_default=False)],
    base: Annotated[
        str | None,
        typer.Option(
            help="model the run is of: hf:OWNER/NAME@COMMIT or timm:NAME@COMMIT  \\[default: the run's]"
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="make a private repository")] = False,
    with_pictures: Annotated[
        bool, typer.Option("--with-pictures", help="also the report's pictures, and names of pictures")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list the files and bytes, print the card, send nothing")
    ] = False,
) -> None:
    """Upload a run to the hub: the plan, what changed, and a card of what was measured.

    Pictures and their names stay here unless you ask.  Log in before with [bold]hf auth login[/bold], or
    set HF_TOKEN.  Others use it by [bold]sparsight.from_pretrained("OWNER/NAME")[/bold].
    """
    from sparsight.share import push as send

    done = send(run, repo, base, private, with_pictures, dry_run, say)
    if done.commit is None:
        typer.echo(done.card)
    else:
        say(f"pushed: {done.commit}")


@app.command()
def pull(
    repo: Annotated[
        str, typer.Argument(metavar="REPO", help="OWNER/NAME or OWNER/NAME@REVISION", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="folder for the run", show_default=False)],
) -> None:
    """Copy a run of the hub into a folder, to measure and judge it here."""
    from sparsight.share import pull as fetch

    say(f"saved in {fetch(repo, out)}; next: sparsight measure {out} --images DIR")
