"""Writing a plan's weights into a model, and those from before back."""

from typing import Any

import torch
from torch import Tensor, nn

from sparsight.errors import PlanError
from sparsight.plan import Plan


def write(model: nn.Module, plan: Plan, before: dict[str, Tensor]) -> None:
    """Copy the plan's weights into the model's; `before` receives what they were.

    Raises PlanError at the first that cannot be written.
    """
    own = model.state_dict()
    for name, value in plan.weights.items():
        if not name.startswith("model."):
            continue
        key = name.removeprefix("model.")
        try:
            with torch.no_grad():
                old = own[key].clone()
                own[key].copy_(value)
        except Exception as error:  # of whatever kind the class of a quantised tensor raises
            raise PlanError(
                f"weight {key!r} of this model cannot be written ({_first_line(error)}): "
                "apply the plan to the plain float model first, then quantise or share its weights"
            ) from None
        before[key] = old


def write_back(model: nn.Module, before: dict[str, Tensor]) -> None:
    """Undo `write`; PlanError if something was done to the weights meanwhile that forbids it."""
    own = model.state_dict()
    for key, value in before.items():
        try:
            with torch.no_grad():
                own[key].copy_(_laid_out(value, own[key]))
        except Exception as error:
            raise PlanError(
                f"weight {key!r} cannot be written back ({_first_line(error)}): it was quantised or "
                "shared after the plan had been applied, so load the model again"
            ) from None


def _laid_out(value: Tensor, like: Any) -> Tensor:
    """`value`, sharded if the weight was sharded meanwhile."""
    if not hasattr(like, "placements"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
