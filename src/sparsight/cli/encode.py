"""`sparsight encode`: a corpus of pictures into a table of features, each picture exactly once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from sparsight.cli.app import app, say
from sparsight.cli.options import (
    CheckpointOption,
    JsonOption,
    ModuleOption,
    PretrainedOption,
    write,
)
from sparsight.errors import SparsightError


class Output(StrEnum):
    """What is kept of each picture."""

    pooled = "pooled"
    cls = "cls"
    maps = "maps"


class Precision(StrEnum):
    """Of weights and computing."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class MapPrecision(StrEnum):
    """Of stored maps."""

    float16 = "float16"
    float32 = "float32"


class Format(StrEnum):
    """Of the sink."""

    parquet = "parquet"
    lance = "lance"
    webdataset = "webdataset"


class MapFiles(StrEnum):
    """Of maps beside a table."""

    safetensors = "safetensors"
    npy = "npy"


class OptionalAddress(TyperCommand):
    """--ray without an address stands for --ray local."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the word in where it is missing."""
        for place, word in enumerate(args):
            if word == "--ray" and (place + 1 == len(args) or args[place + 1].startswith("--")):
                args = [*args[: place + 1], "local", *args[place + 1 :]]
                break
        return super().parse_args(ctx, args)


@app.command(cls=OptionalAddress)
def encode(
    model: Annotated[
        str,
        typer.Argument(metavar="RUN_OR_MODEL", help="run folder, hub:OWNER/NAME, or MODEL as elsewhere"),
    ],
    images: Annotated[
        str,
        typer.Option(
            help="folder, .txt with names, .tar shards (also a{000..099}.tar), .parquet, or a folder of "
            "datasets",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder of the sink", show_default=False)],
    format: Annotated[Format, typer.Option("--format", help="of the sink")] = Format.parquet,
    output: Annotated[
        list[Output] | None,
        typer.Option(help="repeat for several  \\[default: pooled, and cls if the model has one]"),
    ] = None,
    taps: Annotated[
        str | None, typer.Option(help="also what these layers give, like 5,8 (mean; map with maps)")
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(
            help="of every picture: 1024 or 768x1024 (height x width)  \\[default: the run's, or 1024]"
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="instead: each picture at its own size, up to so many tokens"),
    ] = None,
    dtype: Annotated[Precision, typer.Option(help="of weights and computing")] = Precision.float32,
    map_dtype: Annotated[MapPrecision, typer.Option(help="of stored maps")] = MapPrecision.float16,
    map_files: Annotated[
        MapFiles, typer.Option(help="maps beside a table: a file for each part, or for each map")
    ] = MapFiles.safetensors,
    limit: Annotated[
        int | None, typer.Option(min=1, help="only the first pictures  \\[default: all]")
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="leave the run's plan out: the control")
    ] = False,
    compare_dense: Annotated[
        int, typer.Option(min=0, metavar="N", help="compare sparse with dense on N pictures before")
    ] = 0,
    batch: Annotated[
        int | None, typer.Option(min=1, help="pictures at a time  \\[default: 8192 tokens, at most 32]")
    ] = None,
    part: Annotated[
        int | None,
        typer.Option(min=1, help="pictures a file of the sink  \\[default: 256, fewer with maps]"),
    ] = None,
    readers: Annotated[
        int | None,
        typer.Option(min=1, help="threads that read and decode  \\[default: 1, or 8 for a GPU]"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="of PyTorch, on a CPU  \\[default: all cores]")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="like cpu or cuda:1  \\[default: a GPU if there is one]")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="[ADDRESS]", help="on Ray: here, or the cluster at ADDRESS (or auto)"),
    ] = None,
    actors: Annotated[
        int | None, typer.Option(min=1, help="of Ray  \\[default: one for each GPU, or core]")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="of a table: which holds the pictures  \\[default: found]")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id", help="of a table: which names them  \\[default: file and row]")
    ] = None,
    json: JsonOption = None,
    pretrained: PretrainedOption = False,
    checkpoint: CheckpointOption = None,
    module: ModuleOption = None,
) -> None:
    """Encode a whole collection of pictures; every picture is in the sink exactly once.

    Killed at any moment, it goes on where it was when the same command is given again, with the same
    result to the bit.  Pictures that cannot be read are in OUT/quarantine.parquet, with the reason.  On
    several GPUs of one machine: [bold]accelerate launch -m sparsight encode ...[/bold]
    """
    from sparsight.encode import EncoderSettings, How
    from sparsight.encode import encode as run
    from sparsight.images import parse_resolution

    settings = EncoderSettings(
        model=model, pretrained=pretrained, module=module, dense=dense,
        checkpoint=str(checkpoint) if checkpoint else None, max_tokens=max_tokens,
        resolution=parse_resolution(resolution) if resolution else None,
        outputs=tuple(o.value for o in output) if output else None, taps=layers_of(taps),
        dtype=dtype.value, map_dtype=map_dtype.value, batch=batch, device=device, threads=threads,
    )  # fmt: skip
    how = How(format.value, map_files.value, limit, part, readers, ray, actors, compare_dense)
    summary = run(settings, images, out, how, column, id_column, say)
    if summary:
        write(summary, json)
        tell(summary, out)


def layers_of(text: str | None) -> tuple[int, ...]:
    """Layers from "5,8"."""
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise SparsightError(f"--taps {text!r}: not like 5,8") from None


def tell(summary: dict[str, Any], out: Path) -> None:
    """What there is to say at the end."""
    sink, run, versus = summary["sink"], summary["run"], summary.get("compare_dense")
    say(
        f"{run['pictures']:,} pictures encoded at {run['pictures_per_s']:.3g} pictures/s, "
        f"{run['tokens_per_s']:,.0f} tokens/s; {100 * run['share_dense']:.0f} % ran dense"
    )
    for method, share in sink["kept"].items():
        say(
            f"{method} kept {share['median']} % of the middle picture, {share['min']} % to "
            f"{share['max']} % over all"
        )
    if versus:
        say(
            f"{versus['speedup']:.2f}x as fast as dense, end to end: "
            f"{versus['sparse_pictures_per_s']:.3g} and {versus['dense_pictures_per_s']:.3g} a second"
        )
    if sink["quarantined"]:
        why = "; ".join(f"{count} x {reason}" for reason, count in list(sink["reasons"].items())[:3])
        say(f"{sink['quarantined']:,} left out ({why}): see {out / 'quarantine.parquet'}")
    say(f"{sink['pictures']:,} pictures in {out}; report: {out / 'report.html'}")
