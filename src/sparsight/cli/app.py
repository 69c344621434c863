"""The program itself: its help, and how it ends when something goes wrong."""

from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from sparsight.errors import SparsightError


class OneSentence(TyperGroup):
    """Errors raised on purpose end in one sentence and exit code 1, an interrupt in 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except SparsightError as error:
            stop(str(error), 1)
        except KeyboardInterrupt:
            stop("interrupted; what was finished is saved, and the same command goes on from there", 130)
        except OSError as error:
            stop(f"the system refused: {error}", 1)


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


def say(text: str) -> None:
    """Tell the user, beside the result."""
    typer.echo(text, err=True)


def stop(text: str, code: int) -> NoReturn:
    """End with one sentence."""
    typer.echo(f"sparsight: {text}", err=True)
    raise SystemExit(code)
