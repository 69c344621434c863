"""Whole models, one row for each technique, and what a user would try instead.  Random weights.

`python benchmarks/ladder.py` writes benchmarks/results/ladder-<device>.json.  Only speed is meant: what
the techniques cost in quality is in docs/compare.md.
"""

import argparse
import copy
import json
import time
from dataclasses import dataclass

import harness
import torch
from arms import DENSE, Subject, ladder, peers
from torch.nn.functional import scaled_dot_product_attention

from sparsight.models import load_model
from sparsight.stages import timing
from sparsight.stages.measure import name

SHORT = (DENSE, "sparse attention, sampled", "+ projector", "+ reuse", "+ MLP routing, attention")
TOO_LONG_S = 100.0  # a dense pass longer than this is not measured


@dataclass(frozen=True)
class Case:
    """One model and size; `arms` says how much of the ladder: all with peers, all, or the short one."""

    model: str
    size: int
    batch: int = 1
    arms: str = "short"
    budget_s: float = 60.0


CASES = (
    Case("demo", 1024, arms="all with peers"),
    Case("timm:vit_small_patch14_dinov2", 518, arms="all with peers"),
    Case("timm:vit_small_patch14_dinov2", 518, 8),
    Case("timm:vit_small_patch14_dinov2", 1036, arms="all", budget_s=240),
    Case("timm:vit_base_patch14_dinov2", 518, arms="all"),
    Case("timm:vit_large_patch14_dinov2", 518),
    Case("timm:vit_large_patch14_clip_336", 518),
    Case("timm:sam2_hiera_tiny", 1024, arms="all"),
    Case("timm:sam2_hiera_large", 1024),
    Case("timm:swin_tiny_patch4_window7_224", 896, arms="all"),
    Case("timm:vit_base_patch14_dinov2", 1036),
    Case("timm:vit_small_patch14_dinov2", 2044),
    Case("timm:vit_large_patch14_dinov2", 1036),
    Case("timm:vit_small_patch14_dinov2", 1036, 8),
    Case("timm:vit_large_patch14_dinov2", 2044),
)


def measured(case: Case, device: torch.device) -> list[dict]:
    """The rows of one case."""
    torch.manual_seed(0)
    model = load_model(case.model, (case.size, case.size)).model.to(device)
    subject = Subject(model, torch.randn(case.batch, 3, case.size, case.size, device=device))
    arms = ladder(subject)
    if case.arms == "short":
        arms = {arm: build for arm, build in arms.items() if arm in SHORT}
    elif case.arms == "all with peers":
        arms |= peers(subject)
    what = f"{case.model} {case.size} px, batch {case.batch}"
    try:
        too_long = pass_s(subject, device) > TOO_LONG_S
    except Exception as error:  # out of memory
        return [{"arm": DENSE, "hole": harness.reason(error)}]
    if too_long:
        return [{"arm": DENSE, "hole": f"a dense pass takes more than {TOO_LONG_S:.0f} s here"}]
    rows = harness.measure(arms, case.budget_s, what, device)
    harness.speedups(rows, DENSE)
    return rows


def pass_s(subject: Subject, device: torch.device) -> float:
    """How long a dense pass will take, from its FLOPs and the rate of one attention call."""
    meta = Subject(copy.deepcopy(subject.model).to("meta"), subject.pictures.to("meta"))
    work = timing.gflops(meta.call(meta.model))
    q = torch.randn(1, 4, 4096, 64, device=device)
    scaled_dot_product_attention(q, q, q)
    began = time.perf_counter()
    scaled_dot_product_attention(q, q, q)
    return work / (4 * 4 * 4096**2 * 64 / 1e9 / (time.perf_counter() - began))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="cases with this in their name; others are kept")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    harness.limit_memory()
    file = harness.RESULTS / f"ladder-{device.type}.json"
    old = json.loads(file.read_text())["rows"] if arguments.only and file.exists() else []
    found = {(row["model"], row["resolution"], row["batch"]): [] for row in old}
    for row in old:
        found[row["model"], row["resolution"], row["batch"]].append(row)
    for case in CASES:
        at = {"model": case.model, "resolution": name((case.size,) * 2), "batch": case.batch}
        if arguments.only in f"{case.model} {case.size} {case.batch}":
            found[tuple(at.values())] = [
                at | row | {"revision": timing.revision()} for row in measured(case, device)
            ]
            rows = [row for rows in found.values() for row in rows]
            protocol = timing.protocol(
                device, torch.float32, keep=1 / 8, mlp_keep=1 / 4, weights="random",
                command="python benchmarks/ladder.py",
            )  # fmt: skip
            harness.save(f"ladder-{device.type}", __file__, {"protocol": protocol, "rows": rows})
