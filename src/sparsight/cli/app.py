"""The program itself: its help, and how it ends when something goes wrong."""

import sys
from io import TextIOWrapper
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from sparsight.errors import SparsightError


class OneSentence(TyperGroup):
    """Errors raised on purpose, and settings out of range, end in one sentence; an interrupt in 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        for stream in (sys.stdout, sys.stderr):  # a file's name need not be Unicode
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")
        try:
            return super().invoke(ctx)
        except SparsightError as error:
            stop(str(error), 1)
        except KeyboardInterrupt:
            stop("interrupted; what was finished is saved, and the same command goes on from there", 130)
        except OSError as error:
            stop(f"the system refused: {error}", 1)
        except ValueError as error:
            stop(out_of_range(error), 1)


app = typer.Typer(
    cls=OneSentence,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Make pretrained vision encoders fast at high resolution, without labels.

    Start with [bold]sparsight demo --out runs/demo[/bold]: the whole pipeline on an encoder that comes
    with the package.  Then [bold]analyze[/bold] your model on your images, [bold]optimize[/bold] it, and
    [bold]measure[/bold] what you gained and what it cost; [bold]evaluate[/bold] judges it by a task.

    MODEL is [bold]demo[/bold], [bold]timm:NAME[/bold] (random weights unless --pretrained or
    --checkpoint), [bold]hf:NAME[/bold] (transformers, with --pretrained), or a folder written by timm's
    save_for_hf or transformers' save_pretrained.  [bold]--module[/bold] names the vision encoder in it.
    """,
)


def out_of_range(error: ValueError) -> str:
    """The sentence for settings that their class refuses; any other error goes on."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        raise error
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][:1])
    return f"{name or error.title}: {first['msg']}"


def say(text: str) -> None:
    """Tell the user, beside the result."""
    typer.echo(text, err=True)


def stop(text: str, code: int) -> NoReturn:
    """End with one sentence."""
    typer.echo(f"sparsight: {text}", err=True)
    raise SystemExit(code)
