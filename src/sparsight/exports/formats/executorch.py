"""ExecuTorch for phones and small devices (.pte): run by XNNPACK on the processor."""

from pathlib import Path
from typing import Any

from sparsight.exports.formats.base import Arrays, Engine


def settings(**more: Any) -> dict[str, Any]:
    """Of transformers' exporter, beside the shapes."""
    return {"backend": "xnnpack"}


def save(program: Any, file: Path, inputs: dict[str, Any]) -> None:
    """One file."""
    with file.open("wb") as stream:
        program.write_to_file(stream)


def opened(file: Path, dtype: str, threads: int, names: tuple[str, ...]) -> Engine:
    """Run by ExecuTorch's runtime, which knows outputs by their place alone."""
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(file).load_method("forward")

    def run(pictures: Any) -> Arrays:
        found = method.execute([torch.from_numpy(pictures)])
        return {name: value.clone().numpy() for name, value in zip(names, found, strict=True)}

    return Engine(run, dtype)
