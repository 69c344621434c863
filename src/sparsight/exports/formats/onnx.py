"""ONNX for ONNX Runtime, with its fused attention: without it a dense model is slower than PyTorch."""

from pathlib import Path
from typing import Any

from sparsight.errors import SparsightError
from sparsight.exports.formats.base import Arrays, Engine
from sparsight.exports.shapes import INPUT

LEAST_OPSET = 18  # of torch's exporter
LARGEST_FILE = 1 << 30  # bytes of weights in the file itself: protobuf ends at two of these


def settings(opset: int | None = None, **more: Any) -> dict[str, Any]:
    """Of transformers' exporter, beside the shapes."""
    if opset is not None:
        from onnx.defs import onnx_opset_version

        if not LEAST_OPSET <= opset <= onnx_opset_version():
            raise SparsightError(
                f"opset {opset} cannot be written here: choose {LEAST_OPSET} to "
                f"{onnx_opset_version()}, or leave it out"
            )
    return {"ort_fusions": "cpu", "opset_version": opset}


def save(program: Any, file: Path, inputs: dict[str, Any]) -> None:
    """One file; the weights of a large model beside it."""
    import onnx_ir

    weights = (value.const_value for value in program.graph.initializers.values())
    is_large = sum(value.nbytes for value in weights if value is not None) > LARGEST_FILE
    onnx_ir.save(program, str(file), external_data=f"{file.name}.data" if is_large else None)


def opset_of(program: Any) -> int:
    """Which version of ONNX's operators a program uses."""
    return int(program.opset_imports[""])


def opened(file: Path, dtype: str, threads: int, names: tuple[str, ...]) -> Engine:
    """Run by ONNX Runtime on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    own = [output.name for output in session.get_outputs()]

    def run(pictures: Any) -> Arrays:
        return dict(zip(own, session.run(own, {INPUT: pictures}), strict=True))

    return Engine(run, dtype)
