"""Whole models, one row for each technique, and what a user would try instead.  Random weights.

`python -m benchmarks.speed.ladder` writes results/ladder-<kind>.json, a file for each kind of machine
(`cpu-avx2`, `cpu-avx512`, ...; `cuda`).  Only speed is meant: what the techniques cost in quality is in
docs/compare.md.
"""

import argparse
import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from benchmarks import harness
from benchmarks.arms import DENSE, EXIT_KEEP, KEEP, MLP_KEEP, Subject, ladder, peers

from sparsight.models import load_model
from sparsight.stages import timing
from sparsight.stages.measure import name

SHORT = (
    DENSE, "sparse attention, sampled", "+ projector", "+ reuse", "+ MLP routing",
    "sparse attention, then early exit",
)  # fmt: skip
TOO_LONG_S = 100.0  # a dense pass longer than this is not measured


@dataclass(frozen=True)
class Case:
    """One model and size; `arms` says how much of the ladder: all with peers, all, or the short one."""

    model: str
    size: int
    batch: int = 1
    arms: str = "short"
    budget_s: float = 60.0

    @property
    def name(self) -> str:
        """What `--only` looks in."""
        return f"{self.model} {self.size} px, batch {self.batch}"


CASES = (
    Case("demo", 1024, arms="all with peers"),
    Case("timm:vit_small_patch14_dinov2", 518, arms="all with peers"),
    Case("timm:vit_small_patch14_dinov2", 518, 8),
    Case("timm:vit_small_patch14_dinov2", 1036, arms="all", budget_s=480),
    Case("timm:vit_base_patch14_dinov2", 518, arms="all"),
    Case("timm:vit_base_patch14_dinov2", 1036),
    Case("timm:vit_large_patch14_dinov2", 518),
    Case("timm:vit_large_patch14_clip_336", 518),
    Case("timm:sam2_hiera_tiny", 1024, arms="all"),
    Case("timm:sam2_hiera_large", 1024),
    Case("timm:swin_tiny_patch4_window7_224", 896, arms="all"),
    Case("timm:vit_small_patch14_dinov2", 2044),
    Case("timm:vit_large_patch14_dinov2", 1036),
    Case("timm:vit_small_patch14_dinov2", 1036, 8),
    Case("timm:vit_large_patch14_dinov2", 2044),
)


def measured(case: Case, device: torch.device) -> list[dict[str, Any]]:
    """The rows of one case."""
    torch.manual_seed(0)
    at = {"model": case.model, "resolution": name((case.size,) * 2), "batch": case.batch}
    try:
        model = load_model(case.model, (case.size, case.size)).model.to(device)
        subject = Subject(model, torch.randn(case.batch, 3, case.size, case.size, device=device))
        too_long = pass_s(subject, device) > TOO_LONG_S
    except Exception as error:  # out of memory
        return [at | {"arm": DENSE, "hole": harness.reason(error)}]
    if too_long:
        return [at | {"arm": DENSE, "hole": f"a dense pass takes more than {TOO_LONG_S:.0f} s here"}]
    arms = ladder(subject)
    if case.arms == "short":
        arms = {arm: build for arm, build in arms.items() if arm in SHORT}
    elif case.arms == "all with peers":
        arms |= peers(subject)
    rows = harness.measure(arms, case.budget_s, case.name, device)
    harness.speedups(rows, DENSE)
    return [at | row for row in rows]


def pass_s(subject: Subject, device: torch.device) -> float:
    """How long a dense pass will take, about."""
    meta = Subject(copy.deepcopy(subject.model).to("meta"), subject.pictures.to("meta"))
    return harness.attention_s(timing.gflops(meta.call(meta.model)), device)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="cases with this in their name; others are kept")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    harness.limit_memory()
    cases = {case.name: partial(measured, case, device) for case in CASES}
    protocol = timing.protocol(
        device, torch.float32, keep=KEEP, mlp_keep=MLP_KEEP, exit_keep=EXIT_KEEP, weights="random",
        command="python -m benchmarks.speed.ladder",
    )  # fmt: skip
    harness.run(f"ladder-{harness.kind(device)}", __file__, cases, protocol, arguments.only)
