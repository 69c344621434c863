"""Whole models: dense in its fastest forms against sparse, eager, compiled and as a CUDA graph."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import arms as rungs
from benchmarks import harness
from benchmarks.arms import DENSE, Subject, settings
from benchmarks.gpu.sizes import Case, Sizes
from benchmarks.speed import preparing
from sparsight.stages.measure import name

KERNELS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION")


def subject_of(case: Case, device: torch.device, dtype: torch.dtype) -> Subject:
    """Random weights, and random pictures of the case's size."""
    torch.manual_seed(0)
    sized = {} if case.model.startswith("sam2") else {"dynamic_img_size": True}
    changes = dict(case.changes)
    model = timm.create_model(case.model, **sized, **changes).eval().to(device, dtype)
    pictures = torch.randn(case.batch, 3, case.size, case.size, device=device, dtype=dtype)
    return Subject(model, pictures)


def measured(
    case: Case, device: torch.device, dtype: torch.dtype, budget_s: float, compiler: str = "inductor"
) -> list[dict[str, Any]]:
    """Every arm, against the fastest dense one of the case."""
    subject = subject_of(case, device, dtype)
    rows = harness.measure(arms_of(subject, compiler), budget_s, case.name, device)
    dense = [row["latency_ms"] for row in rows if row["arm"].startswith("dense") and "latency_ms" in row]
    for row in rows:
        if dense and "latency_ms" in row:
            row["speedup"] = min(dense) / row["latency_ms"]
    what = {"model": case.model, "resolution": name((case.size,) * 2), "batch": case.batch}
    return [what | {"dtype": str(dtype).removeprefix("torch.")} | row for row in rows]


def arms_of(subject: Subject, compiler: str) -> dict[str, harness.Build]:
    """The dense model by each kernel, compiled and as a graph, then what is applied to it."""
    found: dict[str, harness.Build] = {DENSE: partial(rungs.applied, subject, None)}
    for kernel in KERNELS:
        found[f"dense, {kernel}"] = partial(by_kernel, subject, getattr(SDPBackend, kernel))
    found["dense, compiled"] = partial(compiled, subject, None, compiler)
    found["dense, CUDA graph"] = partial(graphed, subject, None)
    wanted = settings(subject) | rungs.fewer_tokens(subject)
    for label, what in wanted.items():
        found[label] = partial(rungs.applied, subject, what)
    last, fewest = list(settings(subject))[-1], list(wanted)[-1]
    for label in dict.fromkeys((last, fewest)):
        found[f"{label}, compiled"] = partial(compiled, subject, wanted[label], compiler)
        found[f"{label}, CUDA graph"] = partial(graphed, subject, wanted[label])
    return found


def by_kernel(subject: Subject, kernel: SDPBackend) -> Callable[[], Any]:
    """The dense model with one kernel for attention; fails where it does not take the shape."""
    call = rungs.applied(subject, None)

    def run() -> Any:
        with sdpa_kernel([kernel]):
            return call()

    return run


def compiled(subject: Subject, what: Any, compiler: str) -> Callable[[], Any]:
    """One graph, by torch.compile."""
    torch._dynamo.reset()
    run = torch.compile(rungs.Features(subject.changed(what)), fullgraph=True, backend=compiler)
    return lambda: run(subject.pictures)


def graphed(subject: Subject, what: Any) -> Callable[[], Any]:
    """Recorded once and replayed: no time between kernels."""
    if subject.pictures.device.type != "cuda":
        raise harness.Hole("a CUDA graph needs a CUDA GPU")
    call = subject.call(subject.changed(what))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as PyTorch asks: warmed up beside, then recorded
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def prepared(sizes: Sizes, device: torch.device, budget_s: float) -> list[dict[str, Any]]:
    """Calibration and completion of the first model, against dense passes."""
    case = sizes.models[0]
    model = copy.deepcopy(subject_of(case, device, torch.float32).model)
    arms = preparing.calibration(model, case.size)
    rows = harness.measure(arms, budget_s, f"preparing {case.name}", device, most=3, least=1)
    harness.speedups(rows, "dense forward")
    return [{"model": case.model, "resolution": name((case.size,) * 2)} | row for row in rows]
