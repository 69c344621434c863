"""What the benchmarks of quality share: plans that are completed once, arms timed in one run, and parts
of a result that are kept, so that what was cut off goes on.
"""

import copy
import json
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, device, nn

from benchmarks import harness
from sparsight.attach import apply, as_plan, family_in
from sparsight.errors import PlanError
from sparsight.files import write_json
from sparsight.methods import Settings
from sparsight.plan import Plan
from sparsight.run import load, save_plan
from sparsight.stages import timing
from sparsight.stages.bench import Bench
from sparsight.stages.complete import complete
from sparsight.stages.measure import fused

Methods = Settings | Sequence[Settings] | Plan


def parser(doc: str, name: str, scenes: int, repeats: int = 9) -> ArgumentParser:
    """The options of all of them; `name` is that of the result."""
    found = ArgumentParser(description=doc.splitlines()[0])
    found.add_argument("--scenes", type=int, default=scenes, help="held-out pictures")
    found.add_argument("--repeats", type=int, default=repeats)
    found.add_argument("--out", type=Path, default=harness.RESULTS / f"{name}.json")
    work = harness.ROOT / "runs" / name
    found.add_argument("--work", type=Path, default=work, help="what an interrupted run goes on from")
    return found


@cache
def code() -> str:
    """What the package is as this process has loaded it."""
    return harness.package()


def kept(file: Path, make: Callable[[], Any], *key: Any) -> Any:
    """What `make` returns; from `file`, if the same code made it there from the same `key`."""
    mark = json.loads(json.dumps([code(), *key]))
    try:
        found = json.loads(file.read_text())
        if found["key"] == mark:
            return found["value"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    value = make()
    write_json(file, {"key": mark, "value": value})
    return value


def completed(bench: Bench, methods: Methods, folder: Path) -> tuple[Plan, float]:
    """A plan with its maps, sparse at any size, and the seconds they took; from `folder`, if there."""
    draft = as_plan(methods).at_any_size()
    mark = {"code": code(), "of": draft.to_json(), "pictures": bench.max_images}
    try:
        plan = load(folder)
        if plan.recipe["mark"] == mark:
            return plan, float(plan.recipe["seconds"])
    except (PlanError, KeyError):
        pass
    began = time.perf_counter()
    plan = complete(bench, draft)
    seconds = time.perf_counter() - began
    save_plan(plan.with_(recipe=plan.recipe | {"mark": mark, "seconds": seconds}), folder)
    return load(folder), seconds


def said(plan: Plan | None) -> dict[str, str]:
    """What a row says of its plan; None is the dense model."""
    return {"method": plan.name if plan else "dense", "setting": plan.label if plan else ""}


def applied(model: nn.Module, plans: Mapping[str, Plan]) -> dict[str, nn.Module]:
    """The dense model, and a copy of it for every plan."""
    return {"dense": model} | {name: apply(copy.deepcopy(model), plan) for name, plan in plans.items()}


def time_on(
    arms: Mapping[str, Any], pictures: Sequence[Tensor], repeats: int
) -> dict[str, dict[str, float]]:
    """Latency, speedup over the first arm and FLOPs of each, for one picture; all in turn in one run.

    A call takes all `pictures`, one after another: what an arm does may depend on what it is shown.
    """

    def call(model: Any) -> Callable[[], None]:
        features = family_in(model).features

        def run() -> None:
            for picture in pictures:
                features(model, picture[None])

        return run

    calls = {name: call(model) for name, model in arms.items()}
    with fused(*arms.values()):
        times = timing.interleave(calls, repeats, device("cpu"))
        flops = {name: timing.gflops(call) / len(pictures) for name, call in calls.items()}
    rows = {}
    for name, taken in times.items():
        rows[name] = timing.summary([ms / len(pictures) for ms in taken]) | {"gflops": flops[name]}
        rows[name]["speedup"] = next(iter(rows.values()))["latency_ms"] / rows[name]["latency_ms"]
    return rows


def written(file: Path, protocol: dict[str, Any], **parts: Any) -> None:
    """The result, with what it was made from."""
    write_json(file, {"made_from": code(), "protocol": protocol} | parts)
