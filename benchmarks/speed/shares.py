"""Where the time of a whole model goes, dense and rung by rung: what is left to make faster.

`python -m benchmarks.speed.shares` writes benchmarks/results/shares-<device>.json.  Random weights.
"""

import argparse
from functools import partial
from typing import Any

import torch
from benchmarks import harness
from benchmarks.arms import DENSE, Subject, ladder

from sparsight.models import load_model
from sparsight.stages import timing
from sparsight.stages.measure import name

MODEL, SIZE = "timm:vit_small_patch14_dinov2", 1036
ARMS = (DENSE, "+ reuse", "+ MLP routing", "sparse attention, then early exit")


def measured(device: torch.device) -> list[dict[str, Any]]:
    """Milliseconds of each kind of work, by the profiler's shares of one pass and the median latency."""
    torch.manual_seed(0)
    model = load_model(MODEL, (SIZE, SIZE)).model.to(device)
    subject = Subject(model, torch.randn(1, 3, SIZE, SIZE, device=device))
    builds = ladder(subject)
    with torch.inference_mode():
        arms = {arm: builds[arm]() for arm in ARMS}
    times = timing.interleave(arms, 3, device, "Profiling")
    rows = []
    for arm, call in arms.items():
        latency = timing.summary(times[arm])
        shares = timing.shares(call, device)
        spent = {kind: share * latency["latency_ms"] for kind, share in shares.items()}
        at = {"model": MODEL, "resolution": name((SIZE, SIZE)), "arm": arm, "repeats": 3}
        rows.append(at | latency | {"spent_ms": spent})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    protocol = timing.protocol(
        device, torch.float32, batch=1, weights="random", command="python -m benchmarks.speed.shares"
    )
    cases = {f"{MODEL} {SIZE} px": partial(measured, device)}
    harness.run(f"shares-{device.type}", __file__, cases, protocol)
