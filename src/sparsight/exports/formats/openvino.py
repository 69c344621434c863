"""OpenVINO: a graph (.xml) and its weights (.bin)."""

from pathlib import Path
from typing import Any

from sparsight.exports.formats.base import Arrays, Engine

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def settings(**more: Any) -> dict[str, Any]:
    """Of transformers' exporter, beside the shapes."""
    return {"stateful": False}


def save(program: Any, file: Path, inputs: dict[str, Any]) -> None:
    """Two files; weights keep their precision."""
    import openvino

    openvino.save_model(program, str(file), compress_to_fp16=False)


def opened(file: Path, dtype: str, threads: int, names: tuple[str, ...]) -> Engine:
    """Run by OpenVINO on the processor, in the precision that was exported: it takes bf16 by itself."""
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": PRECISIONS[dtype], "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(str(file), "CPU", hints)
    own = [output.get_any_name() for output in compiled.outputs]
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()

    def run(pictures: Any) -> Arrays:
        found = compiled(pictures)
        return {name: found[place].copy() for place, name in enumerate(own)}

    return Engine(run, {short: name for name, short in PRECISIONS.items()}.get(used, used))
