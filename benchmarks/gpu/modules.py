"""One attention module against every kernel of the device; and where its time goes."""

from typing import Any

import torch
from torch.autograd import DeviceType

from benchmarks import harness
from benchmarks.gpu.sizes import Sizes
from benchmarks.speed import attention
from sparsight._torchvision import repair
from sparsight.ops.partition import kept_count

repair()
from timm.models.vision_transformer import Block  # noqa: E402

KERNELS = 12  # of a profile, those that take longest


def built(
    case: tuple[str, int, int, int, int], device: torch.device, dtype: torch.dtype
) -> tuple[Any, torch.Tensor, int]:
    """A block of random weights, what its attention reads, and how many tokens are kept."""
    _, dim, heads, tokens, batch = case
    torch.manual_seed(0)
    block = Block(dim, heads, qkv_bias=True).eval().to(device, dtype)
    kept = kept_count(tokens, attention.KEEP, attention.PREFIX)
    return block, torch.randn(batch, tokens, dim, device=device, dtype=dtype), kept


def measured(
    sizes: Sizes, device: torch.device, dtype: torch.dtype, budget_s: float
) -> list[dict[str, Any]]:
    """All arms of each case; speedups are over the fastest dense core, or the dense module."""
    found = []
    for case in sizes.modules:
        name, _, _, tokens, batch = case
        what = {
            "model": name,
            "tokens": tokens,
            "batch": batch,
            "dtype": str(dtype).removeprefix("torch."),
        }
        try:
            with torch.inference_mode():
                block, h, kept = built(case, device, dtype)
                arms = attention.module_arms(block, h, kept) | attention.peers(block, h, kept)
        except Exception as error:  # memory
            found.append(what | {"arm": "all", "hole": harness.reason(error)})
            continue
        if tokens > attention.PEERS_UP_TO:
            arms = {arm: build for arm, build in arms.items() if "MATH" not in arm and "mask" not in arm}
        if sizes.compiler != "inductor":
            arms = {arm: build for arm, build in arms.items() if harness.COMPILED not in arm}
        share = budget_s / len(sizes.modules)
        rows = harness.measure(
            arms, share, f"{name} {tokens} tokens, batch {batch}", device, most=sizes.most
        )
        against_fastest(rows)
        found += [what | {"kept": kept, "limit": tokens / (2 * kept)} | row for row in rows]
        del block, h, arms
    return found


def against_fastest(rows: list[dict[str, Any]]) -> None:
    """Speedups of cores over the fastest dense core, of modules over the dense module."""
    timed = [row for row in rows if "latency_ms" in row]
    cores = [row["latency_ms"] for row in timed if row["arm"].startswith("core dense")]
    whole = [row["latency_ms"] for row in timed if row["arm"] == "module dense"]
    for row in timed:
        base = min(cores, default=None) if row["arm"].startswith("core") else next(iter(whole), None)
        if base is not None:
            row["speedup"] = base / row["latency_ms"]


def profiled(sizes: Sizes, device: torch.device) -> list[dict[str, Any]]:
    """The kernels of the dense, the sampled and the reusing module of the first case, by their time."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    block, h, kept = built(sizes.modules[0], device, dtype)
    rows = []
    with torch.inference_mode():
        arms = attention.module_arms(block, h, kept)
        for arm in ("module dense", "module sampled 1/16", "module linear", "module reuse"):
            call = arms[arm]()
            call()
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
            with profile(activities=kinds) as seen:
                call()
                if cuda:
                    torch.cuda.synchronize(device)
            rows += [{"arm": arm} | kernel for kernel in kernels(seen, cuda)]
    return rows


def kernels(seen: Any, cuda: bool) -> list[dict[str, Any]]:
    """Name, calls and milliseconds of those that take longest."""
    wanted = DeviceType.CUDA if cuda else DeviceType.CPU
    events = [event for event in seen.key_averages() if event.device_type == wanted]

    def time_of(event: Any) -> float:
        return float(event.self_device_time_total if cuda else event.self_cpu_time_total)

    events.sort(key=time_of, reverse=True)
    return [
        {"kernel": event.key[:120], "calls": event.count, "ms": time_of(event) / 1e3}
        for event in events[:KERNELS]
    ]
