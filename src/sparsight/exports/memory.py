"""The memory of one call of an exported file, in a process of its own (`python -m`).

In one that has called before, an allocator hands out what it has kept, and nothing is seen to grow.
"""

import subprocess
import sys
from pathlib import Path

from sparsight.exports.formats import format_named


def peak_memory_mb(
    file: Path, form: str, dtype: str, threads: int, names: tuple[str, ...], shape: tuple[int, ...]
) -> float | None:
    """How far a process grows in its first call, in 10^6 bytes; None where no system says so."""
    words = [str(file), form, dtype, str(threads), ",".join(names), *map(str, shape)]
    command = [sys.executable, "-m", "sparsight.exports.memory", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return float(done.stdout.split()[-1])
    except (IndexError, ValueError):
        return None


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def _main(file: str, form: str, dtype: str, threads: str, names: str, *shape: str) -> None:
    import numpy
    import torch

    torch.set_num_threads(int(threads))
    engine = format_named(form).opened(Path(file), dtype, int(threads), tuple(names.split(",")))
    pictures = numpy.zeros(tuple(map(int, shape)), numpy.float32)
    before = _status("VmRSS")
    engine.run(pictures)
    print(max(0, _status("VmHWM") - before) * 1024 / 1e6)


if __name__ == "__main__":
    _main(*sys.argv[1:])
