"""Where things are in a host model: one file per family, data only."""

from typing import TYPE_CHECKING

from sparsight.errors import UnsupportedModelError
from sparsight.families import hf_sam2, timm_eva, timm_sam2, timm_vit
from sparsight.families.base import Family, Parts

if TYPE_CHECKING:
    from torch import nn

FAMILIES: tuple[Family, ...] = (
    timm_vit.FAMILY,
    timm_eva.FAMILY,
    timm_sam2.FAMILY,
    hf_sam2.FAMILY,
)

__all__ = ["FAMILIES", "Family", "Parts", "family_named", "family_of"]


def family_named(name: str) -> Family:
    """The family called `name`."""
    for family in FAMILIES:
        if family.name == name:
            return family
    raise UnsupportedModelError(
        f"no family is called {name!r}; there are {', '.join(f.name for f in FAMILIES)}"
    )


def family_of(model: "nn.Module") -> Family:
    """The family `model` belongs to; raises UnsupportedModelError with the first thing that differs."""
    kind = type(model).__name__
    if kind == "OptimizedModule":
        raise UnsupportedModelError(
            "this model is already compiled: apply the plan first, then call torch.compile"
        )
    if kind in ("DataParallel", "DistributedDataParallel"):
        raise UnsupportedModelError(f"this model is wrapped in {kind}: pass its .module instead")
    closest, reason, depth = FAMILIES[0], "", -1
    for family in FAMILIES:
        holds, missing = family.first_mismatch(model)
        if missing is None:
            return family
        if holds > depth:
            closest, reason, depth = family, missing, holds
    raise UnsupportedModelError(
        f"{kind} is not supported: the closest family is {closest.name} ({closest.examples}), "
        f"which needs {reason}"
    )
