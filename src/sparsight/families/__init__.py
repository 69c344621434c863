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
    hf_swin_v2,
    hf_vit,
    timm_eva,
    timm_sam2,
    timm_swin,
    timm_swin_v2,
    timm_vit,
)
from sparsight.families.base import Family
from sparsight.families.handed import check_is_model
from sparsight.families.inputs import takes_pictures
from sparsight.families.parts import Parts
from sparsight.families.refused import ASKED, reason_against
from sparsight.inplace import STATE, is_changed

if TYPE_CHECKING:
    from torch import nn

FAMILIES: tuple[Family, ...] = (
    timm_vit.FAMILY,
    timm_eva.FAMILY,
    timm_sam2.FAMILY,
    timm_swin.FAMILY,
    timm_swin_v2.FAMILY,
    hf_vit.FAMILY,
    hf_dinov2.FAMILY,
    hf_dinov3.FAMILY,
    hf_clip.FAMILY,
    hf_siglip.FAMILY,
    hf_sam2.FAMILY,
    hf_swin.FAMILY,
    hf_swin_v2.FAMILY,
)

WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")
ATTENTIONS = ("attn", "attention", "self_attn")  # what blocks call it

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

    Raises UnsupportedModelError with the reason and, where there is one, the way out: the first thing
    in which it differs from its family, or the submodules that are supported encoders.
    """
    found = [(family, *family.first_mismatch(model)) for family in FAMILIES]
    for family, _, missing in found:
        if missing is None and not _is_sharded(model):
            return family
    kind, of = type(model).__name__, type(model).__module__
    _check_unwrapped(model)
    named = f"{kind} of {of}"
    parts = [(name, part) for name, part in model.named_modules() if name]
    inner = [repr(name) for name in encoders_inside(model)]
    unfit = ""
    if takes_pictures(model) and not inner and reason_against(model) in ASKED:
        from sparsight.families.found import Found, found_in
        from sparsight.families.sites import family_from

        sites = found_in(model)
        if isinstance(sites, Found):
            return family_from(sites)
        unfit = sites
    closest, number, missing = max(found, key=lambda row: row[1])
    if number:
        base = closest.kind_of(model)
        derived = "" if base == kind else f", derived from {base},"
        raise UnsupportedModelError(
            f"{named}{derived} is not supported: the closest family is {closest.name}, which needs "
            f"{missing}{_odd_block(closest, model)}"
        )
    if inner:
        shown = inner if len(inner) < 4 else [*inner[:3], "..."]
        raise UnsupportedModelError(
            f"{kind} is no vision encoder itself but holds {'one' if len(inner) == 1 else 'several'}: "
            f"name it with module={' or module='.join(shown)} (on the command line --module)"
        )
    if reason := unfit or reason_against(model):
        raise UnsupportedModelError(f"{named} cannot become sparse: {reason}")
    for name, part in parts:
        if reason := reason_against(part):
            raise UnsupportedModelError(
                f"{kind} holds a {type(part).__name__} at {name!r}, which cannot become sparse: {reason}"
            )
    for family in FAMILIES:
        if any(of == name.rpartition(".")[0] for name in family.kinds):
            raise UnsupportedModelError(
                f"{named} is not supported: the closest family is {family.name}, which needs "
                f"{family.first_mismatch(model)[1]}"
            )
    raise UnsupportedModelError(
        f"{named} is not supported, its blocks have no adapter: DINOv2, DINOv3, CLIP, SigLIP, ViT, "
        "DeiT, EVA-02, SAM 2 and Swin of timm or transformers have, alone or in a larger model"
    )


def _check_unwrapped(model: "nn.Module") -> None:
    """Raise UnsupportedModelError if `model` is wrapped, or was made from the model to change."""
    kind = type(model).__name__
    if kind == "OptimizedModule":
        raise UnsupportedModelError(
            "this model is already compiled: apply the plan first, then call torch.compile"
        )
    if kind in WRAPPERS:
        raise UnsupportedModelError(f"this model is wrapped in {kind}: pass its .module instead")
    for name, part in model.named_modules():
        classes = [base.__name__ for base in type(part).__mro__]
        where = f"{name!r} of this {kind}" if name else f"this {kind}"
        if "OptimizedModule" in classes:
            raise UnsupportedModelError(f"{where} is compiled: apply the plan first, then compile")
        if _is_sharded(part):
            raise UnsupportedModelError(f"{where} is sharded: apply the plan first, then fully_shard")
        if "ScriptModule" in classes or "GraphModule" in classes:
            raise UnsupportedModelError(
                f"{where} is traced or scripted, and its blocks cannot be changed: apply the plan to "
                "the model it was made from, then trace it"
            )


def _is_sharded(part: "nn.Module") -> bool:
    return any(base.__name__ == "FSDPModule" for base in type(part).__mro__)


def _odd_block(family: Family, model: "nn.Module") -> str:
    """The first block or attention that is of neither library, in words; none if all are of theirs."""
    try:
        blocks = list(family.blocks(model))
    except AttributeError:
        return ""
    for layer, block in enumerate(blocks):
        attention = [part for part in (getattr(block, n, None) for n in ATTENTIONS) if part is not None]
        for part in (block, *attention):
            if type(part).__module__.partition(".")[0] not in ("timm", "transformers"):
                return f"; layer {layer} has a {type(part).__qualname__} of {type(part).__module__}"
    return ""


def encoder_in(model: "nn.Module", module: str | None) -> "nn.Module":
    """The submodule of `model` at the attribute path `module`, such as "vision_tower"; None: `model`.

    Raises UnsupportedModelError with the paths that would do if there is no such submodule, or with
    what to pass if `model` is no module.
    """
    check_is_model(model)
    if module is None:
        return _only_encoder(model)
    try:
        return model.get_submodule(module)
    except AttributeError:
        fitting = encoders_inside(model)
        hint = f"; supported encoders are at {', '.join(map(repr, fitting))}" if fitting else ""
        raise UnsupportedModelError(f"{type(model).__name__} has no module {module!r}{hint}") from None


def _only_encoder(model: "nn.Module") -> "nn.Module":
    """`model`, or the one encoder in it that a plan is applied to or can be."""
    if STATE in model.__dict__ or _fits(model) or type(model).__name__ in ("OptimizedModule", *WRAPPERS):
        return model  # a wrapper is refused by its name
    changed = [p for p in model.modules() if STATE in p.__dict__ and not is_changed(p)]
    if changed:
        return changed[0] if len(changed) == 1 else model
    inside = encoders_inside(model)
    return model.get_submodule(inside[0]) if len(inside) == 1 else model


def encoders_inside(model: "nn.Module") -> list[str]:
    """The paths of the vision encoders in a larger model: those of a family, and what takes pictures.

    Of wrappers around each other that all take pictures (a detector, its backbone, the tower in that),
    the innermost that has attention.
    """
    known = [name for name, part in model.named_modules() if name and _fits(part)]
    known = [name for name in known if not any(_within(name, other) for other in known)]
    taking = [
        name
        for name, part in model.named_modules()
        if name not in known and takes_pictures(part) and _attends(part)
    ]
    others = [
        name
        for name in taking
        if name
        and not any(_within(one, name) for one in (*taking, *known))
        and not any(_within(name, one) for one in known)
    ]
    return known + others


def _attends(module: "nn.Module") -> bool:
    """Whether a part of it is called attention, as it is in all libraries."""
    return any("attention" in type(part).__name__.lower() for part in module.modules())


def _within(inner: str, outer: str) -> bool:
    return inner.startswith(f"{outer}.")


def _fits(module: "nn.Module") -> bool:
    return any(family.first_mismatch(module)[1] is None for family in FAMILIES)
