"""The table of measured parts: milliseconds by what runs, in a file that says on which machine."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sparsight.errors import SparsightError
from sparsight.files import write_json
from sparsight.stages import timing

REPEATS = 5


class LatencyTable:
    """Milliseconds by what runs.  Kept in `file`, if there is one, after every measurement."""

    def __init__(self, file: Path | None, setting: dict[str, Any]) -> None:
        self.file, self.setting = file, setting
        self.ms: dict[str, float] = {}
        if file is not None and file.exists():
            self.ms = _read(file, setting)

    def measure(
        self, calls: Mapping[str, Callable[[], Any]], device: torch.device, beside: Mapping[str, str]
    ) -> None:
        """Time `calls`, interleaved, and add those that are not in the table.

        Each as long as it takes where what it runs `beside`, another of them, takes as long as in the
        table: so it does not matter how fast the machine was meanwhile.
        """
        times = timing.interleave(dict(calls), REPEATS, device, "Timing parts")
        now = {key: timing.summary(taken)["latency_ms"] for key, taken in times.items()}
        pace = {key: self.ms[key] / ms for key, ms in now.items() if key in self.ms}
        new = {key: ms for key, ms in now.items() if key not in self.ms}
        self.ms |= {key: ms * pace.get(beside.get(key, key), 1.0) for key, ms in new.items()}
        if self.file is not None:
            write_json(self.file, {"setting": self.setting, "ms": self.ms})


def _read(file: Path, setting: dict[str, Any]) -> dict[str, float]:
    """The entries of a table; SparsightError if it is damaged or of another machine or number format."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        theirs, entries = dict(found["setting"]), {str(k): float(v) for k, v in found["ms"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SparsightError(f"{file} is no latency table: {error}") from None
    for name, value in setting.items():
        if theirs.get(name) != value:
            raise SparsightError(
                f"{file} was measured with {name} {theirs.get(name)!r}, and here it is {value!r}: give "
                "another --latency-table, and one is measured"
            )
    return entries
