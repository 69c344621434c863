"""`sparsight export`, and exported files as arms of `measure` and `evaluate`."""

import json as text
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsight.cli.app import app, say
from sparsight.cli.options import CheckpointOption, PretrainedOption, loaded_model, model_of
from sparsight.cli.report import write_page
from sparsight.errors import SparsightError
from sparsight.images import parse_resolution


class FormatName(StrEnum):
    """What a model is exported to."""

    pt2 = "pt2"
    onnx = "onnx"
    openvino = "openvino"
    aoti = "aoti"
    executorch = "executorch"


class DTypeName(StrEnum):
    """Of weights and computing."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class FeatureTask(StrEnum):
    """Tasks that read final features alone."""

    segmentation = "segmentation"
    classification = "classification"
    salient = "salient"


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run folder of optimize or demo")],
    out: Annotated[Path, typer.Option(help="file, or folder for several", show_default=False)],
    format: Annotated[FormatName, typer.Option(help="of the file")] = FormatName.onnx,
    sizes: Annotated[
        str | None,
        typer.Option(help="of pictures, like 518x518,1036x1036: a file each  \\[default: the run's]"),
    ] = None,
    dynamic: Annotated[
        bool,
        typer.Option(
            "--dynamic", help="one file for all sizes between these, or from 256 px to the run's"
        ),
    ] = False,
    batch: Annotated[str, typer.Option(help="pictures at once: a number, or dynamic")] = "1",
    dtype: Annotated[DTypeName, typer.Option(help="of weights and computing")] = DTypeName.float32,
    output: Annotated[
        list[str] | None,
        typer.Option(help="features, pooled, cls, map or tap<layer>; repeat for several"),
    ] = None,
    opset: Annotated[int | None, typer.Option(min=1, help="of ONNX  \\[default: the newest]")] = None,
    dense: Annotated[bool, typer.Option("--dense", help="the model without the plan")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="compare with PyTorch on --images, and refuse what differs")
    ] = False,
    images: Annotated[Path | None, typer.Option(help="folder of pictures for --report")] = None,
    task: Annotated[
        FeatureTask | None, typer.Option(help="judge the file by it too, for --report; on --data")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="folder of the task's data set")] = None,
    pretrained: PretrainedOption = False,
    checkpoint: CheckpointOption = None,
) -> None:
    """Write a run's model as a file for PyTorch, ONNX Runtime, OpenVINO or ExecuTorch.

    Beside FILE is its manifest, FILE.json.

    With --report, the comparison with PyTorch is FILE.parity.json, and in the run's page.
    """
    from sparsight import tables
    from sparsight.exports.front import export as write
    from sparsight.exports.parity import parity_place
    from sparsight.families import encoder_in
    from sparsight.files import write_json

    if (task is None) != (data is None) or (task is not None and (dense or not report)):
        raise SparsightError(
            "a file is judged with --report, --task TASK and --data DIR together, and not if --dense"
        )
    plan, loaded, _ = model_of(run, None, pretrained, checkpoint)
    module = plan.recipe.get("module")
    files = write(
        encoder_in(loaded.model, module), None if dense else plan, out, format.value,
        [parse_resolution(size) for size in sizes.split(",")] if sizes else None, dynamic,
        _batch(batch), dtype.value, output or ["features"], opset,
        _pictures(report, images, plan, loaded), None, loaded.mean, loaded.std,
    )  # fmt: skip
    for file in files:
        say(f"written: {file}")
        if report:
            found = text.loads(parity_place(file).read_text(encoding="utf-8"))
            if not dense:
                found |= _judged(file, plan, loaded, task, data)
            write_json(parity_place(file), found)
            write_json(run / f"parity-{format.value}.json", found)
            tables.show_parity(found)
    if report:
        write_page(run)


def _batch(batch: str) -> Any:
    if batch == "dynamic":
        return batch
    try:
        return int(batch)
    except ValueError:
        raise SparsightError(f"--batch is a number or dynamic, not {batch!r}") from None


def _pictures(report: bool, images: Path | None, plan: Any, loaded: Any) -> Any:
    """Pictures to compare on; None without --report."""
    from sparsight.images import ImageFolder

    if not report:
        return None
    if images is not None:
        return ImageFolder(images, plan.resolution, loaded.mean, loaded.std)
    if plan.source == "demo":
        from sparsight.demo.run import measuring_pictures

        return measuring_pictures(plan.resolution)
    raise SparsightError("--report compares on pictures: give a folder with --images DIR")


def _judged(
    file: Path, plan: Any, loaded: Any, task: FeatureTask | None, data: Path | None
) -> dict[str, Any]:
    """By the task that was named, or by scenes where the run is of the embedded encoder."""
    from sparsight.exports.judged import judged_by_scenes, judged_by_task

    if task is not None and data is not None:
        normal = {"mean": loaded.mean, "std": loaded.std}
        return {"task": judged_by_task(file, loaded.model, plan, task.value, data, **normal)}
    if plan.source == "demo":
        return {"task": judged_by_scenes(file, loaded.model, plan)}
    return {}


def opened_file(file: Path, pretrained: bool, checkpoint: Path | None) -> tuple[Any, Any, Any, Any]:
    """An exported file, its plan, the loaded model it was made from, and what stands for the file."""
    from sparsight.exports.opened import open_exported
    from sparsight.exports.standin import stand_in
    from sparsight.families import encoder_in

    exported = open_exported(file)
    plan = exported.manifest.as_plan()
    if plan is None or plan.source is None or plan.resolution is None:
        raise SparsightError(f"{file} does not say which run it was made from: compare it in Python")
    loaded = loaded_model(plan.source, plan.resolution, pretrained, checkpoint)
    dense = encoder_in(loaded.model, plan.recipe.get("module"))
    return exported, plan, loaded, stand_in(dense, exported)
