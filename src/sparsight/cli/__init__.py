"""The command line: one verb for each stage and for the tasks, one file for each group of verbs."""

from sparsight.cli import compare, encode, explore, neighbours, optimize, pipeline, tasks
from sparsight.cli.app import app

__all__ = ["compare", "encode", "explore", "main", "neighbours", "optimize", "pipeline", "tasks"]


def main() -> None:
    """Entry point."""
    app()
