"""Export: a model with its plan as files for an engine, each with its manifest, whole or not at all."""

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sparsight.arguments import checked
from sparsight.attach import What, applied, apply, as_plan, family_in, restore
from sparsight.data import Count, Sides, size_of
from sparsight.errors import ImagesError, PlanError, SparsightError
from sparsight.exports import checks
from sparsight.exports.capture import written
from sparsight.exports.counts import counts_of
from sparsight.exports.formats import Format, format_named
from sparsight.exports.graph import OF_TAP, OUTPUTS, Encoder, checked_outputs
from sparsight.exports.manifest import (
    Manifest,
    digest_of,
    digest_of_tensors,
    place_of,
    write_manifest,
)
from sparsight.exports.parity import check_opens, compared
from sparsight.exports.shapes import Batch, Shapes
from sparsight.families import encoder_in
from sparsight.files import check_place, check_writable
from sparsight.images import IMAGENET_MEAN, IMAGENET_STD
from sparsight.plan import Plan
from sparsight.stages import timing
from sparsight.stages.pictures import channels_of, pictures_for, wanted_by

DType = Literal["float32", "bfloat16", "float16"]
FEWEST_PX = 256  # where a dynamic range begins unless sizes are given


@dataclass(frozen=True)
class Wanted:
    """One file to be: what all of its parts need to know."""

    model: nn.Module  # a copy of the user's, with the plan applied, in the dtype wanted
    dense: nn.Module  # the same without the plan
    plan: Plan | None
    form: Format
    shapes: Shapes
    outputs: tuple[str, ...]
    dtype: str
    opset: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    module: str | None


@checked
def export(
    model: nn.Module,
    what: What | None = None,
    out: str | os.PathLike[str] = "export",
    format: str = "onnx",
    sizes: Sequence[Sides] | None = None,
    dynamic: bool = False,
    batch: Batch = 1,
    dtype: DType = "float32",
    outputs: Sequence[str] = ("features",),
    opset: Count | None = None,
    images: Any = None,
    module: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> list[Path]:
    """Write `model` with a plan as a file that runs without Python code of ours or of its own.

    `what`     what `apply` takes; None: what is applied to the model, or else the dense model
    `out`      a file with the format's ending, or a folder
    `format`   "pt2", "onnx", "openvino", "aoti" or "executorch"
    `sizes`    of pictures, (height, width) or the side of a square; one file each.  With `dynamic`, one
               file for all between the smallest and the largest sides of these (else from 256 px to the
               plan's resolution)
    `batch`    so many pictures at once, or "dynamic"
    `outputs`  "features", "pooled", "cls", "map", or "tap<layer>"
    `images`   pictures, in any form `optimize` takes: the file is compared with PyTorch on them, and
               refused above a tolerance; the report is written beside it
    `mean`, `std`  of the pictures, for the manifest; as `images` or the model say unless given
    Returns the files; beside each is its manifest, FILE.json.  Raises SparsightError, nothing written.
    """
    form = format_named(format)
    form.check()
    if dtype not in form.dtypes:
        raise SparsightError(f"the format {form.name} runs in {', '.join(form.dtypes)}, not in {dtype}")
    form.check_open(dynamic, batch)
    encoder = encoder_in(model, module)
    state, given = applied(encoder), None if what is None else as_plan(what)
    if state is not None and given is not None:
        raise PlanError(
            "this model already has a plan applied: leave the plan out, or restore the model"
        )
    plan = state.plan if state is not None else given
    checks.check_model(encoder)
    all_shapes = _shapes(encoder, plan, sizes, dynamic, batch)
    names = checked_outputs(tuple(outputs), encoder)
    for shapes in all_shapes:
        checks.check_sizes(encoder, shapes)
        if plan is not None:
            checks.check_plan(plan, shapes)
    files = _places(Path(out), form, all_shapes)
    pictures = None if images is None else _pictures(encoder, images, all_shapes[-1])
    if mean is None or std is None:
        mean, std = _normal(wanted_by(encoder), images)
    dense = copy.deepcopy(encoder).to("cpu", getattr(torch, dtype))
    if state is not None:
        dense = restore(dense)
    changed = copy.deepcopy(dense)
    if plan is not None:
        changed = apply(changed, plan)
        plan = applied(changed).plan  # type: ignore[union-attr]  # with every layer named
    for shapes, file in zip(all_shapes, files, strict=True):
        _write(
            Wanted(changed, dense, plan, form, shapes, names, dtype, opset, mean, std, module),
            file,
            pictures,
        )
    return files


def _shapes(
    model: nn.Module, plan: Plan | None, sizes: Sequence[Sides] | None, dynamic: bool, batch: Batch
) -> list[Shapes]:
    """One for each file; ImagesError if a size does not suit the model."""
    own = wanted_by(model)
    usual = (plan.resolution if plan is not None else None) or own.size
    named: list[Any] = [size_of(sides) for sides in sizes or ()] or [usual]
    if named[0] is None:
        raise ImagesError("neither the plan nor the model says a size of pictures: give sizes")
    patch, channels = own.patch_px, channels_of(model)
    for size in named:
        own.check(size, channels)

    def shapes(smallest: Any, largest: Any) -> Shapes:
        return Shapes(smallest=smallest, largest=largest, patch_px=patch, channels=channels, batch=batch)

    if not dynamic:
        return [shapes(size, size) for size in dict.fromkeys(named)]
    if not sizes:
        pairs = zip(patch, named[0], strict=True)
        named.append(tuple(min(-(-FEWEST_PX // p) * p, side) for p, side in pairs))
    heights, widths = zip(*named, strict=True)
    return [shapes((min(heights), min(widths)), (max(heights), max(widths)))]


def _places(out: Path, form: Format, all_shapes: list[Shapes]) -> list[Path]:
    """The files; SparsightError if nothing can be written there."""
    if out.name.endswith(form.ending) and not out.is_dir():
        if len(all_shapes) > 1:
            raise SparsightError(
                f"{len(all_shapes)} sizes are as many files, and {out} is one: give a folder, or dynamic"
            )
        check_place(out)
        return [out]
    if out.suffix and not out.is_dir():
        raise SparsightError(
            f"a file of the format {form.name} ends in {form.ending}, not as {out.name}: name it so, or "
            "give a folder"
        )
    check_writable(out)
    return [
        out / f"encoder{'' if shapes.is_dynamic else '-' + shapes.text}{form.ending}"
        for shapes in all_shapes
    ]


def _pictures(model: nn.Module, images: Any, shapes: Shapes) -> Any:
    return pictures_for(model, images, 4, shapes.largest)


def _normal(wanted: Any, images: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """How pictures are normalised: as the given ones are, or as the model says, or ImageNet's."""
    for own in (images, wanted):
        mean, std = getattr(own, "mean", None), getattr(own, "std", None)
        if isinstance(mean, tuple) and isinstance(std, tuple):
            return mean, std
    return IMAGENET_MEAN, IMAGENET_STD


def _write(wanted: Wanted, file: Path, pictures: Any) -> None:
    """One file with all that belongs beside it, made aside and then moved into its place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as aside:
        made = Path(aside) / file.name
        encoder = Encoder(wanted.model, wanted.outputs)
        opset = written(encoder, wanted.shapes, wanted.form, made, wanted.opset).opset
        write_manifest(manifest_of(wanted, made, opset), made)
        if pictures is None:
            check_opens(made)
        else:
            compared(wanted, made, pictures, file)
        _move(Path(aside), file)


def manifest_of(wanted: Wanted, made: Path, opset: int | None) -> Manifest:
    """Of what was written at `made`."""
    family, shapes = family_in(wanted.model), wanted.shapes
    prefix = family.prefix_tokens(wanted.model)
    fewest, most = (
        prefix + rows * columns for rows, columns in map(shapes.grid, (shapes.smallest, shapes.largest))
    )
    files = sorted(place for place in made.parent.iterdir() if place.is_file())
    files.sort(key=lambda place: place != made)  # the file itself first
    plan = wanted.plan
    return Manifest(
        format=wanted.form.name,
        files={place.name: digest_of(place) for place in files},
        shapes=shapes,
        outputs={name: OUTPUTS.get(name, OF_TAP) for name in wanted.outputs},
        dtype=wanted.dtype,
        mean=wanted.mean,
        std=wanted.std,
        model=type(wanted.dense).__name__,
        source=plan.source if plan is not None else None,
        module=wanted.module,
        plan=json.loads(plan.to_json()) if plan is not None else None,
        plan_label=plan.label if plan is not None else "dense",
        weights=digest_of_tensors(tensors_of(wanted.model)),
        prefix_tokens=prefix,
        kept=counts_of(plan, prefix, (fewest, most)) if plan is not None else (),
        opset=opset,
        versions=timing.versions() | _engine_version(wanted.form),
    )  # fmt: skip


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights and buffers of a model, those that a plan brought included."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _engine_version(form: Format) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {form.engine: version(form.engine)}
    except PackageNotFoundError:
        return {}


def _move(aside: Path, file: Path) -> None:
    """Everything made aside into its place: the manifest last, for it says that the others are whole."""
    last = place_of(file).name
    for made in sorted(aside.iterdir(), key=lambda place: place.name == last):
        if made.is_dir():
            shutil.rmtree(made)
        else:
            os.replace(made, file.parent / made.name)
