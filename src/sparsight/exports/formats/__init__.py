"""The formats, one file each: plain data and three functions."""

from sparsight.errors import SparsightError
from sparsight.exports.formats.base import Engine, Format

__all__ = ["FORMATS", "Engine", "Format", "format_named", "format_of"]

HALVES = ("float32", "bfloat16", "float16")
FORMATS: dict[str, Format] = {
    found.name: found
    for found in (
        Format(
            "pt2", ".pt2", "hf", ("transformers",), "torch",
            "exporter_dynamo:DynamoExporter:DynamoConfig", "pt2", HALVES,
        ),
        Format(
            "onnx", ".onnx", "onnx", ("transformers", "onnx", "onnxscript"), "onnxruntime",
            "exporter_onnx:OnnxExporter:OnnxConfig", "onnx",
        ),
        Format(
            "openvino", ".xml", "openvino", ("transformers",), "openvino",
            "exporter_openvino:OpenVINOExporter:OpenVINOConfig", "openvino", HALVES,
        ),
        Format(
            "aoti", ".aoti.pt2", "hf", ("transformers",), "torch",
            "exporter_dynamo:DynamoExporter:DynamoConfig", "aoti", HALVES,
            fixed="PyTorch 2.13 compiles what is counted in a graph of many sizes to wrong C++",
        ),
        Format(
            "executorch", ".pte", "executorch", ("transformers", "executorch"), "executorch",
            "exporter_executorch:ExecutorchExporter:ExecutorchConfig", "executorch",
            fixed="ExecuTorch plans its memory for one size",
        ),
    )
}  # fmt: skip


def format_named(name: str) -> Format:
    """The format called `name`."""
    if name not in FORMATS:
        raise SparsightError(f"there is no format {name!r}: choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def format_of(file_name: str) -> Format | None:
    """By the ending of a file; None if it is of none."""
    fitting = [found for found in FORMATS.values() if file_name.endswith(found.ending)]
    return max(fitting, key=lambda found: len(found.ending), default=None)
