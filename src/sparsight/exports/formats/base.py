"""A format: whose exporter makes the program, how it is written, and how its engine runs it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from sparsight.errors import SparsightError

Arrays = dict[str, Any]  # by name; numpy arrays


class Engine(NamedTuple):
    """A file that was opened."""

    run: Callable[[Any], Arrays]  # a numpy array of pictures -> outputs by name
    precision: str  # that the engine computes in


@dataclass(frozen=True)
class Format:
    """Plain data; what it names is loaded when used."""

    name: str
    ending: str
    extra: str  # of the package, that brings what it needs
    packages: tuple[str, ...]  # to export
    engine: str  # the package that runs the file
    exporter: str  # "module:Exporter:Config" within transformers.exporters
    how: str  # "module:" within this folder, with `settings`, `save` and `opened`
    dtypes: tuple[str, ...] = ("float32",)
    fixed: str = ""  # why its files take one size of picture and of batch each; "": they need not

    def check_open(self, dynamic: bool, batch: Any) -> None:
        """SparsightError if sizes are to be left open and cannot."""
        if self.fixed and (dynamic or batch == "dynamic"):
            raise SparsightError(
                f"a file of the format {self.name} takes one size and one number of pictures: "
                f"{self.fixed}; give sizes, a file is made for each"
            )

    def check(self) -> None:
        """SparsightError if a package is missing."""
        for package in (*self.packages, self.engine):
            if find_spec(package) is None:
                raise SparsightError(
                    f"the format {self.name} needs {package}, which is not installed: pip install "
                    f"'sparsight[{self.extra}]'"
                )

    @property
    def own(self) -> Any:
        """The module of this format."""
        return import_module(f"sparsight.exports.formats.{self.how}")

    def program(self, module: Any, inputs: dict[str, Any], shapes: dict[str, Any], **more: Any) -> Any:
        """What transformers' exporter makes of a module."""
        where, exporter, config = self.exporter.split(":")
        library = import_module(f"transformers.exporters.{where}")
        dynamic = {"dynamic": True, "dynamic_shapes": shapes} if shapes else {}
        settings = getattr(library, config)(**dynamic, **self.own.settings(**more))
        return getattr(library, exporter)().export_program(module, inputs, settings)[0]

    def save(self, program: Any, file: Path, inputs: dict[str, Any]) -> None:
        """Write a program as `file`, and whatever must lie beside it."""
        self.own.save(program, file, inputs)

    def opened(self, file: Path, dtype: str, threads: int, names: tuple[str, ...]) -> Engine:
        """A file in its engine; SparsightError if that does not take it.

        `names` are those of the outputs in their order, for a file that has none in it.
        """
        self.check()
        try:
            engine: Engine = self.own.opened(file, dtype, threads, names)
        except SparsightError:
            raise
        except Exception as error:  # each engine has its own kinds
            raise SparsightError(
                f"{self.engine} does not open {file.name}: {first_line(error)}"
            ) from None
        return engine


def first_line(error: BaseException) -> str:
    """Of what went wrong, short."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # some are coloured
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160].rstrip(": ")
