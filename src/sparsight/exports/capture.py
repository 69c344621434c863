"""From a module to a program of an engine, by transformers' exporters, quietly."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from sparsight.errors import SparsightError
from sparsight.exports.formats import Format
from sparsight.exports.formats.base import first_line
from sparsight.exports.graph import Encoder
from sparsight.exports.shapes import INPUT, Shapes
from sparsight.models.libraries import import_transformers, quiet
from sparsight.modes import evaluating
from sparsight.stages.measure import fused


class Written(NamedTuple):
    """What is known of a program that was written."""

    opset: int | None  # if the format has such
    names: tuple[str, ...]  # of the outputs, in their order


def written(encoder: Encoder, shapes: Shapes, form: Format, file: Path, opset: int | None) -> Written:
    """Write `encoder` as `file`, for pictures of `shapes`.

    Raises SparsightError in one sentence with what the exporter met.
    """
    like = next(encoder.parameters())
    inputs = {INPUT: torch.randn(shapes.example(), device=like.device, dtype=like.dtype)}
    more = {"opset": opset} if form.name == "onnx" else {}
    try:
        with _silence(), evaluating(encoder), fused(encoder.model):
            names = tuple(encoder(**inputs))  # what a size decides (windows) is worked out in this pass
            program = form.program(encoder, inputs, shapes.dynamic(), **more)
            form.save(program, file, inputs)
    except (SparsightError, OSError):
        raise
    except MemoryError:
        raise SparsightError(
            "out of memory while exporting: take smaller sizes or a smaller model"
        ) from None
    except Exception as error:  # exporters and converters each have their own kinds
        if "allocate memory" in str(error) or "out of memory" in str(error).lower():
            raise SparsightError(
                "out of memory while exporting: take smaller sizes or a smaller model"
            ) from None
        raise SparsightError(
            f"the export of this {type(encoder.model).__name__} to {form.name} failed with "
            f"{first_line(error)}"
        ) from error
    return Written(form.own.opset_of(program) if form.name == "onnx" else None, names)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """While in here, the exporters tell nothing on their way: what fails is raised."""
    logger = logging.getLogger("torch")
    before = logger.level
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        quiet(import_transformers()),
    ):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(before)
