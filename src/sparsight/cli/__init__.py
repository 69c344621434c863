"""The command line: one verb for each stage and for the tasks, one file for each group of verbs."""

import io
import sys

from sparsight.cli import (
    compare,
    doctor,
    encode,
    explore,
    export,
    neighbours,
    optimize,
    pipeline,
    share,
    tasks,
)  # fmt: skip
from sparsight.cli.app import app

__all__ = [
    "compare", "doctor", "encode", "explore", "export", "main", "neighbours", "optimize", "pipeline",
    "share",
    "tasks",
]  # fmt: skip


def main() -> None:
    """Entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name may hold what the terminal cannot show
    app()
