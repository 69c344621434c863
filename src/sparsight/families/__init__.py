"""Where things are in a host model: one file per family, data only."""

from typing import TYPE_CHECKING

from sparsight.errors import UnsupportedModelError
from sparsight.families import (
    hf_clip,
    hf_dinov2,
    hf_dinov3,
    hf_sam2,
    hf_siglip,
    hf_swin,
    hf_vit,
    timm_eva,
    timm_sam2,
    timm_swin,
    timm_vit,
)
from sparsight.families.base import Family
from sparsight.families.parts import Parts
from sparsight.families.refused import reason_against

if TYPE_CHECKING:
    from torch import nn

FAMILIES: tuple[Family, ...] = (
    timm_vit.FAMILY,
    timm_eva.FAMILY,
    timm_sam2.FAMILY,
    timm_swin.FAMILY,
    hf_vit.FAMILY,
    hf_dinov2.FAMILY,
    hf_dinov3.FAMILY,
    hf_clip.FAMILY,
    hf_siglip.FAMILY,
    hf_sam2.FAMILY,
    hf_swin.FAMILY,
)

__all__ = ["FAMILIES", "Family", "Parts", "encoder_in", "family_named", "family_of"]


def family_named(name: str) -> Family:
    """The family called `name`."""
    for family in FAMILIES:
        if family.name == name:
            return family
    raise UnsupportedModelError(
        f"no family is called {name!r}; there are {', '.join(f.name for f in FAMILIES)}"
    )


def family_of(model: "nn.Module") -> Family:
    """The family `model` belongs to.

    Raises UnsupportedModelError with the closest family and the first thing that differs from it, or
    with the submodules that are supported encoders.
    """
    kind = type(model).__name__
    if kind == "OptimizedModule":
        raise UnsupportedModelError(
            "this model is already compiled: apply the plan first, then call torch.compile"
        )
    if kind in ("DataParallel", "DistributedDataParallel"):
        raise UnsupportedModelError(f"this model is wrapped in {kind}: pass its .module instead")
    found = [(family, *family.first_mismatch(model)) for family in FAMILIES]
    for family, _, missing in found:
        if missing is None:
            return family
    for name, part in model.named_modules():
        if type(part).__name__ == "OptimizedModule":
            raise UnsupportedModelError(
                f"{name!r} of this {kind} is compiled: apply the plan first, then compile"
            )
    if reason := reason_against(model):
        raise UnsupportedModelError(f"{kind} cannot become sparse: {reason}")
    inner = [repr(name) for name, part in model.named_modules() if name and _fits(part)]
    if inner:
        raise UnsupportedModelError(
            f"{kind} is no vision encoder itself but holds {'one' if len(inner) == 1 else 'several'}: "
            f"name it with module={' or module='.join(inner)} (on the command line --module)"
        )
    closest, _, reason = max(found, key=lambda f: (f[1], f[0].kinship(model)))
    raise UnsupportedModelError(
        f"{kind} is not supported: the closest family is {closest.name} ({closest.examples}), "
        f"which needs {reason}"
    )


def encoder_in(model: "nn.Module", module: str | None) -> "nn.Module":
    """The submodule of `model` at the attribute path `module`, such as "vision_tower"; None: `model`.

    Raises UnsupportedModelError with the paths that would do if there is no such submodule.
    """
    if module is None:
        return model
    try:
        return model.get_submodule(module)
    except AttributeError:
        fitting = [name for name, part in model.named_modules() if name and _fits(part)]
        hint = f"; supported encoders are at {', '.join(map(repr, fitting))}" if fitting else ""
        raise UnsupportedModelError(f"{type(model).__name__} has no module {module!r}{hint}") from None


def _fits(module: "nn.Module") -> bool:
    return any(family.first_mismatch(module)[1] is None for family in FAMILIES)
