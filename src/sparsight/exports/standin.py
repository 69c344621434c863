"""An exported file in the place of the model it was made from, for what compares two models."""

import copy
from dataclasses import replace

from torch import Tensor, nn

from sparsight.attach import Applied, family_in
from sparsight.errors import PlanError, SparsightError
from sparsight.exports.opened import Exported
from sparsight.identity import check_identity
from sparsight.inplace import STATE


def stand_in(dense: nn.Module, exported: Exported) -> nn.Module:
    """A copy of `dense` whose final features are those of the file.

    Everything else of it, such as a head, is its own.  Raises SparsightError if the file has no
    features, or was made from another model.
    """
    manifest = exported.manifest
    if "features" not in manifest.outputs:
        raise SparsightError(
            f"{exported.file.name} gives {', '.join(manifest.outputs)} and no features: export with "
            "features among the outputs to compare it"
        )
    family, plan = family_in(dense), manifest.as_plan()
    if plan is None:
        raise PlanError(f"{exported.file.name} is the dense model: there is nothing to compare")

    if plan.model is not None:
        check_identity(plan.model, dense, family)
    elif type(dense).__name__ != manifest.model:
        raise PlanError(
            f"{exported.file.name} was made from a {manifest.model}, not from a {type(dense).__name__}"
        )
    made = copy.deepcopy(dense)

    def features(model: nn.Module, pictures: Tensor) -> Tensor:
        like = next(model.parameters())
        return exported(pictures)["features"].to(like.device, like.dtype)

    made.__dict__[STATE] = Applied(plan, replace(family, features=features))
    return made
