"""What this machine is, and in which number format the dense model is fastest on it."""

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsight.families import Family
from sparsight.stages import timing
from sparsight.stages.doctor.blocks import Run, Unit, runner
from sparsight.stages.doctor.outline import Work

# As Linux names them: what decides how fast float32 and bfloat16 are.
TELLING = {
    "avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16",
    "asimd": "NEON", "sve": "SVE", "bf16": "bf16",
}  # fmt: skip
NOT_COMPILED = "not tried: compiling takes longer than this whole check"


def facts(device: torch.device) -> dict[str, Any]:
    """The machine in words, and what it is good at."""
    return {
        "name": timing.machine(device),
        "device": str(device),
        "instruction_sets": instruction_sets(),
        "threads": torch.get_num_threads(),
        "bfloat16": has_bfloat16(device),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": timing.versions(),
    }


def instruction_sets() -> list[str]:
    """The processor's, of those that decide speed; none where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
    return [word for flag, word in TELLING.items() if flag in flags]


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; where it does not, bfloat16 is slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False


def dtypes(own: torch.dtype, device: torch.device) -> list[torch.dtype]:
    """Number formats worth trying beside the model's own."""
    found = [torch.float32]
    if has_bfloat16(device):
        found.append(torch.bfloat16)
    if device.type == "cuda":
        found.append(torch.float16)
    return [dtype for dtype in found if dtype != own]


def arms(dense: nn.Module, family: Family, unit: Unit, work: Work) -> dict[str, Run]:
    """A unit in each other number format, by its name."""
    like, found = next(dense.parameters()), {}
    for dtype in dtypes(like.dtype, like.device):
        blocks = [copy.deepcopy(family.blocks(dense)[layer]).to(dtype) for layer in unit]
        found[words(dtype)] = runner(blocks, work.calls[unit[0]])
    return found


def words(dtype: torch.dtype) -> str:
    """A number format's name."""
    return str(dtype).removeprefix("torch.")


def rows(times: dict[str, float | None], native: bool) -> list[dict[str, Any]]:
    """What is known of each form of the dense model, by the milliseconds of one unit; its own is first.

    `native` says whether the device computes in bfloat16 itself.
    """
    own = next(iter(times.values()))
    found = [
        _row(form, ms, own, None if ms else "not timed: no time was left") for form, ms in times.items()
    ]
    if "bfloat16" not in times and not native:
        found.append(_row("bfloat16", None, own, "not tried: no bfloat16 arithmetic here"))
    return [*found, _row("compiled", None, own, NOT_COMPILED)]


def _row(form: str, ms: float | None, own: float | None, why_not: str | None) -> dict[str, Any]:
    return {"form": form, "unit_ms": ms, "speedup": own / ms if own and ms else None, "why_not": why_not}
