"""The verbs for judging an encoder by a task: evaluate, and scenes to try it on."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli.app import app, say
from sparsight.cli.export import opened_file
from sparsight.cli.options import (
    CheckpointOption,
    JsonOption,
    ModelArgument,
    ModuleOption,
    PretrainedOption,
    ResolutionOption,
    loaded_model,
    model_of,
    own_run,
    report_skipped,
    write,
)
from sparsight.cli.report import write_page
from sparsight.images import parse_resolution


class TaskName(StrEnum):
    """What an encoder is judged by."""

    features = "features"
    segmentation = "segmentation"
    classification = "classification"
    salient = "salient"
    prompted = "prompted"


class LayoutName(StrEnum):
    """Folder layouts of segmentation data sets."""

    ade20k = "ade20k"
    voc = "voc"
    camvid = "camvid"
    cityscapes = "cityscapes"


class ScenesLayout(StrEnum):
    """Folder layouts scenes can be written in."""

    camvid = "camvid"
    imagefolder = "imagefolder"
    salient = "salient"


TableOption = Annotated[
    Path | None,
    typer.Option(help="what numbers or colours in labels mean: lines like 7 0 or 128 0 0 void"),
]


@app.command()
def evaluate(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="run folder, or a file of export", callback=own_run)
    ],
    task: Annotated[TaskName, typer.Option(help="what to judge it by", show_default=False)],
    data: Annotated[Path, typer.Option(help="folder of the data set (see below)", show_default=False)],
    resolution: Annotated[
        str | None,
        typer.Option(help="picture size: 1024 or 768x1024 (height x width)  \\[default: the run's]"),
    ] = None,
    max_images: Annotated[
        int | None, typer.Option(min=1, help="pictures to judge, at most  \\[default: all]")
    ] = None,
    max_train_images: Annotated[
        int | None, typer.Option(min=1, help="pictures to train a probe on, at most  \\[default: all]")
    ] = None,
    own_probe: Annotated[
        bool, typer.Option("--own-probe", help="train a second probe on the sparse model's features")
    ] = False,
    layout: Annotated[
        LayoutName | None, typer.Option(help="of a segmentation data set  \\[default: by its folders]")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=2, help="number of classes  \\[default: the layout's]")
    ] = None,
    void: Annotated[
        int | None,
        typer.Option(help="label of pixels that do not count, -1: none  \\[default: the layout's]"),
    ] = None,
    table: TableOption = None,
    names: Annotated[
        Path | None,
        typer.Option(help="class names, one a line: classification becomes zero-shot (CLIP, SigLIP)"),
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="how many of the worst pictures to list")] = 5,
    seed: Annotated[int, typer.Option(help="of the bootstrap and of the choice of patches")] = 0,
    json: JsonOption = None,
    pretrained: PretrainedOption = False,
    checkpoint: CheckpointOption = None,
) -> None:
    """Judge dense against sparse by a task, in one run, with a confidence interval of the difference.

    [bold]features[/bold]: how far the tokens moved, layer by layer.  DATA is any folder of pictures.

    [bold]segmentation[/bold]: mIoU of a linear probe.  DATA has the folders of ADE20K
    (images/training, annotations/training, ...; 151 classes, void 0), Pascal VOC (JPEGImages,
    SegmentationClass, ImageSets/Segmentation; 21, void 255), CamVid (train/images, train/labels,
    val/...; 11, void 11) or Cityscapes (leftImg8bit/train, gtFine/train, ...; 19, void 255).

    [bold]classification[/bold]: k-NN and linear probe, top-1.  DATA has train/CLASS/*.jpg and
    val/CLASS/*.jpg; with --names, zero-shot by the model's own text tower.

    [bold]salient[/bold]: IoU of the object in each picture.  DATA has im/ and gt/, or images/ and
    masks/, alone or within train/ and val/ (or DIS-TR/ and DIS-VD/).

    [bold]prompted[/bold]: IoU of each object from five points in it, with SAM 2.  DATA has im/ and
    gt/, or images/ and masks/.

    No data at hand?  [bold]sparsight scenes[/bold] writes some.  The result is saved in RUN as
    evaluate-TASK.json.
    """
    from sparsight import tables
    from sparsight.files import check_writable
    from sparsight.tasks.evaluate import evaluate as judge
    from sparsight.tasks.zeroshot import tokenizer_in

    engine = None
    if run.is_file():
        exported, plan, loaded, engine = opened_file(run, pretrained, checkpoint)
        size = parse_resolution(resolution) if resolution else exported.manifest.shapes.largest
        exported.check([size])
    else:
        plan, loaded, size = model_of(run, resolution, pretrained, checkpoint)
        check_writable(run)
    if loaded.random_weights:
        say("these are random weights: quality does not mean anything")
    result = judge(
        loaded.model, plan, task.value, data, size, mean=loaded.mean, std=loaded.std,
        max_images=max_images, max_train_images=max_train_images, own_probe=own_probe,
        layout=layout.value if layout else None, classes=classes, void=void, table=table, worst=worst,
        seed=seed, names=names, tokenizer=tokenizer_in(plan.source) if names else None,
        module=plan.recipe.get("module"), engine=engine,
    )  # fmt: skip
    if engine is None:
        write(result, run / f"evaluate-{task.value}.json")
    write(result, json)
    tables.show_evaluation(result)
    if engine is None:
        write_page(run)
    report_skipped(result["skipped"])


@app.command()
def finetune(
    model: ModelArgument,
    data: Annotated[Path, typer.Option(help="pictures and masks, as for salient", show_default=False)],
    out: Annotated[Path, typer.Option(help="folder for the weights", show_default=False)],
    resolution: ResolutionOption = "1024",
    steps: Annotated[int, typer.Option(min=1, help="training steps")] = 300,
    batch: Annotated[int, typer.Option(min=1, help="pictures per step")] = 1,
    rank: Annotated[int, typer.Option(min=1, help="of the adapters")] = 8,
    learning_rate: Annotated[float, typer.Option(help="of the adapters")] = 5e-4,
    table: TableOption = None,
    json: JsonOption = None,
    pretrained: PretrainedOption = False,
    checkpoint: CheckpointOption = None,
    module: ModuleOption = None,
) -> None:
    """Adapt an encoder to salient objects at a higher resolution, by LoRA.

    Interrupted, it goes on where it stopped when the same command is given again.  The adapters end
    up in the weights: give the other verbs the same MODEL with --checkpoint OUT/model.safetensors.
    """
    from sparsight.tasks.finetune import Finetuning
    from sparsight.tasks.finetune import finetune as adapt

    settings = Finetuning(steps=steps, batch=batch, rank=rank, learning_rate=learning_rate)
    size = parse_resolution(resolution)
    loaded = loaded_model(model, size, pretrained, checkpoint)
    facts = adapt(
        loaded.model, data, size, out, settings, module, mean=loaded.mean, std=loaded.std, table=table
    )
    write(facts, json)
    say(f"loss {facts['losses'][0]:.4f} at first, {facts['losses'][-1]:.4f} at last; weights in {out}")
    report_skipped(facts["skipped"])


@app.command()
def scenes(
    out: Annotated[Path, typer.Option(help="folder to write into", show_default=False)],
    layout: Annotated[ScenesLayout, typer.Option(help="folders as which data set has them")],
    resolution: ResolutionOption = "512",
    train: Annotated[int, typer.Option(min=1, help="pictures to train on")] = 40,
    val: Annotated[int, typer.Option(min=1, help="pictures to judge by")] = 20,
) -> None:
    """Write procedural scenes with exact labels, to try a task without downloading anything.

    camvid is for --task segmentation (and features), imagefolder for classification, salient for
    salient.
    """
    from sparsight.demo.export import export

    export(out, layout.value, parse_resolution(resolution), train, val)
    say(f"{train} + {val} scenes in {out}")
