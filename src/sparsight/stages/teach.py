"""Teach a lower resolution: the map from features of smaller pictures to those of the full ones.

The strongest cheap rival of anything sparse: BRIXEL and SPAR distil a model for it, here a linear map is
solved in closed form, as every other completion is.
"""

from collections.abc import Mapping

from sparsight.attach import as_plan
from sparsight.completions.linear import Regression
from sparsight.errors import PlanError
from sparsight.methods import LowerResolution
from sparsight.modes import evaluating
from sparsight.plan import Plan
from sparsight.stages.arm import arm_of
from sparsight.stages.bench import Bench


def teach(bench: Bench, plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> Plan:
    """`plan`, of a lower resolution alone, with its map; `shapes` has its name and shape."""
    ((name, shape),) = shapes.items()
    plain = plan.one(LowerResolution).model_copy(update={"completion": "none"})
    first, asks = bench.first(), list[Regression]()
    arm = arm_of(bench.model, as_plan(plain), (first.shape[2], first.shape[3]))
    prefix = bench.family.prefix_tokens(bench.model)
    with evaluating(bench.model), evaluating(arm.model):
        for picture in bench.pictures():
            wanted = bench.family.features(bench.model, picture)[:, prefix:].flatten(0, 1)
            if wanted.shape[1] != shape[1]:
                raise PlanError(
                    f"the final features of this {type(bench.model).__name__} are of {wanted.shape[1]} "
                    f"channels and its last block of {shape[1]}: no map is fitted, use completion='none'"
                )
            read = arm.read(arm.small(picture), (picture.shape[2], picture.shape[3])).flatten(0, 1)
            asks.append(Regression(read, wanted))
    total, *others = asks
    for ask in others:
        total += ask
    table = total.solved("the map of a lower resolution")
    row = {"method": "lower-resolution", "layer": int(name.split(".")[1]), "left": total.left}
    rows = [row | {"tokens": total.count}]
    return plan.with_(weights={name: table.cpu()}, recipe=plan.recipe | {"completion": rows})
