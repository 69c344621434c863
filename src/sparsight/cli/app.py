"""The program itself: its help, and how it ends when something goes wrong."""

import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from sparsight.errors import LONGEST, SparsightError, brief
from sparsight.extras import missing

REFUSED, OURS, INTERRUPTED = 1, 70, 130  # exit codes; 70 is EX_SOFTWARE of sysexits.h
VERBOSE = "--verbose"
DETAILS = f"run with {VERBOSE} for the details"
NEUTRAL = sys.stdlib_module_names | {"torch", "numpy"}  # they do what their caller asked for


class OneSentence(TyperGroup):
    """Whatever goes wrong ends in one sentence, and in an exit code that says whose matter it is.

    1    it was refused: by Sparsight on purpose, by the system, or by another library
    70   a fault of Sparsight
    130  interrupted

    (2, wrong usage, is typer's.)  With --verbose the traceback comes first.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """--verbose may stand anywhere, since one adds it to a command that failed."""
        others = [word for word in args if word != VERBOSE]
        return super().parse_args(ctx, [VERBOSE] * (len(others) < len(args)) + others)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            text = "interrupted; what was finished is saved, and the same command goes on from there"
            stop(text, INTERRUPTED)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if hasattr(error, "exit_code"):  # typer's own, of wrong usage
                raise
            if ctx.params["verbose"]:
                error.__suppress_context__ = False
                traceback.print_exception(error)
            stop(*ending(error))


def ending(error: Exception) -> tuple[str, int]:
    """The sentence and the exit code for what was raised."""
    if isinstance(error, ImportError):
        error = missing(error) or error
    if isinstance(error, SparsightError):
        return str(error), REFUSED
    if isinstance(error, OSError):
        return ended(f"the system refused: {error}", ""), REFUSED
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    if _is_out_of_memory(error):
        return ended(f"out of memory: take a lower resolution or a smaller model ({what}", ")"), REFUSED
    if (name := raised_in(error)) != "sparsight":
        return ended(f"{name} failed with {what}", f"; {DETAILS}"), REFUSED
    return ended("this is a fault of sparsight, please report it: " + what, f"; {DETAILS}"), OURS


def raised_in(error: Exception) -> str:
    """The package whose code was at work: the innermost one that is neither torch nor Python itself."""
    frames = traceback.walk_tb(error.__traceback__)
    packages = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in frames]
    return next((name for name in reversed(packages) if name and name not in NEUTRAL), "sparsight")


def ended(text: str, end: str) -> str:
    """`text` cut, so that with `end` it is no longer than a sentence may be."""
    return brief(text, LONGEST - len(end)) + end


def _is_out_of_memory(error: Exception) -> bool:
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


app = typer.Typer(
    cls=OneSentence,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def program(
    verbose: Annotated[
        bool, typer.Option(VERBOSE, help="if something fails, show where; may stand anywhere")
    ] = False,
) -> None:
    """Make pretrained vision encoders fast at high resolution, without labels.

    Start with [bold]sparsight demo --out runs/demo[/bold]: the whole pipeline on an encoder that comes
    with the package.  [bold]doctor[/bold] says in seconds what your model would gain here.  Then
    [bold]analyze[/bold] it on your images, [bold]optimize[/bold] it, and [bold]measure[/bold] what you
    gained and what it cost; [bold]evaluate[/bold] judges it by a task.

    MODEL is [bold]demo[/bold], [bold]timm:NAME[/bold] (random weights unless --pretrained or
    --checkpoint), [bold]hf:NAME[/bold] (transformers, with --pretrained), or a folder written by timm's
    save_for_hf or transformers' save_pretrained.  [bold]--module[/bold] names the vision encoder in it.
    """


def say(text: str) -> None:
    """Tell the user, beside the result."""
    typer.echo(text, err=True)


def stop(text: str, code: int) -> NoReturn:
    """End with one sentence."""
    typer.echo(f"sparsight: {text}", err=True)
    raise SystemExit(code)
