"""Honest measurements: interleaved timing, peak memory, FLOPs, and the protocol they were made under."""

import ctypes
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sparsight.stages.progress import track

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # parameters of glibc's mallopt
STEADY = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 1 << 28))
USUAL = ((M_MMAP_MAX, 65536), (M_TRIM_THRESHOLD, 1 << 17), (M_TOP_PAD, 1 << 17))  # glibc's own


@contextmanager
def _steady_allocator() -> Iterator[None]:
    """While in here, glibc keeps freed memory, for every arm alike.

    By default it returns large buffers to the system and fetches them anew, page fault by page fault,
    which distorts timings of plain copies and activations by up to four times.  Not for long work: over
    many pictures the kept memory ends up full of holes.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    try:
        for name, value in STEADY:
            libc.mallopt(name, value)
        yield
    finally:
        for name, value in USUAL:
            libc.mallopt(name, value)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """glibc, if that is where memory comes from."""
    try:
        libc = ctypes.CDLL(None)
    except OSError:
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def interleave(
    arms: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device, what: str = "Measuring"
) -> dict[str, list[float]]:
    """Milliseconds of each arm, `repeats` times in turn after one warm-up each.

    Whatever else the machine does hits all arms alike, and the order turns round by round.
    """
    names = list(arms)
    times: dict[str, list[float]] = {name: [] for name in names}
    with torch.inference_mode(), _steady_allocator():
        for name in names:
            arms[name]()
        for round_ in track(range(repeats), what, repeats):
            for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
                _wait(device)
                began = time.perf_counter()
                arms[name]()
                _wait(device)
                times[name].append((time.perf_counter() - began) * 1e3)
    return times


def summary(times: list[float]) -> dict[str, float]:
    """Median and quartiles in milliseconds."""
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return {"latency_ms": middle, "latency_q1_ms": low, "latency_q3_ms": high}


QUIET = "6"  # above the level of every message that the profiler has

# Kinds of work, by a part of the operator's name, in the order in which they are asked.
KINDS = (
    ("attention", ("scaled_dot_product",)),
    ("linear layers", ("addmm", "::mm", "bmm", "linear")),
    ("activation, norm", ("gelu", "silu", "sigmoid", "layer_norm", "softmax")),
    ("moving tokens", ("index", "gather", "scatter", "sort", "::cat", "topk", "copy_")),
)


def _profile(cuda: bool, **more: Any) -> Any:
    """PyTorch's profiler, without the lines (USDT) that it writes to the terminal from 2.13 on."""
    os.environ.setdefault("KINETO_LOG_LEVEL", QUIET)  # read when the first profile starts
    from torch.profiler import ProfilerActivity, profile

    return profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU], **more)


def shares(arm: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Where the time of one call goes: the share of each kind of work, by PyTorch's profiler."""
    cuda = device.type == "cuda"
    with torch.inference_mode(), _profile(cuda) as profiler:
        arm()
    spent = dict.fromkeys([kind for kind, _ in KINDS] + ["other"], 0.0)
    for event in profiler.key_averages():
        kind = next((k for k, parts in KINDS if any(part in event.key for part in parts)), "other")
        spent[kind] += event.self_device_time_total if cuda else event.self_cpu_time_total
    whole = sum(spent.values()) or 1.0
    return {kind: time / whole for kind, time in spent.items()}


def gflops(arm: Callable[[], Any]) -> float:
    """Floating-point operations of one call as PyTorch's own counter counts them, in 10^9."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query, key, value, *_, out_shape=None, **__):
        return sdpa_flop_count(query, key, value)

    # The counter knows the GPU's attention kernels and, up to PyTorch 2.13, not the CPU's.
    cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=cpu) as counter:
        arm()
    return counter.get_total_flops() / 1e9


def peak_memory_mb(arm: Callable[[], Any], device: torch.device) -> float:
    """Most memory held at once during a call, above what was held before it, in 10^6 bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        with torch.inference_mode():
            arm()
        _wait(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    with torch.inference_mode(), _profile(cuda=False, profile_memory=True) as profiler:
        arm()
    held = peak = 0
    events = (e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]")
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 1e6


def protocol(device: torch.device, dtype: torch.dtype, **more: Any) -> dict[str, Any]:
    """The machine, versions and settings a timing was made under."""
    return {
        **setting(device, dtype),
        "timing": "arms interleaved in one process after one warm-up each; median and quartiles",
        "steady_allocator": _glibc() is not None,
        "baseline": "the dense model with scaled_dot_product_attention",
        **more,
    }


def setting(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The machine, versions and number format any figure was computed with."""
    return {
        "machine": machine(device),
        "versions": versions(),
        "revision": revision(),
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def machine(device: torch.device) -> str:
    """The processor or GPU, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, {torch.backends.cpu.get_cpu_capability()}"


def versions() -> dict[str, str]:
    """Of what decides speed and results."""
    import sparsight

    found = {"sparsight": sparsight.__version__, "python": platform.python_version()}
    optional = [name for name in ("transformers",) if name in sys.modules]
    return found | {name: version(name) for name in ("torch", "timm", *optional)}


@cache
def revision() -> str | None:
    """The commit of the source, with a "+" if the package differs from it; None if it is no checkout."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(
            ("git", *words), cwd=root, capture_output=True, text=True, check=True
        ).stdout

    try:
        return git("rev-parse", "--short=12", "HEAD").strip() + (
            "+" if git("status", "-s", "src") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
