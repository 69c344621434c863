"""Doctor: what is this model, what would sparsity gain here, and is it worth it?  Changes nothing.

What is counted (FLOPs, tokens) is exact; what is timed are single blocks, on copies that share the
model's weights; what is said of the whole model is scaled up from them, and says so.
"""

import os
import time
from os import PathLike
from typing import Any

from torch import nn

from sparsight.arguments import checked
from sparsight.attach import applied
from sparsight.data import Sides, size_of
from sparsight.errors import PlanError, UnsupportedModelError
from sparsight.families import Family, encoder_in, encoders_inside, family_of
from sparsight.families.inputs import channels_of
from sparsight.identity import identity
from sparsight.images import ImageFolder, check_resolution
from sparsight.stages.doctor import blocks, facts, forms, pictures, sizes, verdict, ways
from sparsight.stages.doctor.clock import Clock
from sparsight.stages.doctor.outline import sharing, work
from sparsight.stages.measure import fused, name

VERSION = 1  # of the result's layout
BUDGET_S = 11.0  # for what is timed; counting takes a few more, and pictures have their own
SIDE = 1024  # of a picture, where none is given: the nearest that the model's patches divide


@checked
def doctor(
    model: nn.Module,
    resolution: Sides | None = None,
    images: str | PathLike[str] | None = None,
    module: str | None = None,
) -> dict[str, Any]:
    """Look at a model, and say what sparsity would gain with it here; nothing is changed or written.

    `resolution`  side or (height, width) in pixels; None: about 1024
    `images`      a folder of pictures to count
    `module`      path of the vision encoder inside a larger model, such as "vision_tower"

    Returns plain data (docs/doctor.md names it).  A model that is not supported is a result too:
    `supported` is False, `refusal` says why and `modules` what inside it is.  Raises PlanError if a plan
    is applied or the weights are quantised, sharded or on several devices, and ImagesError if the
    resolution does not fit or the folder holds no picture.
    """
    began = time.perf_counter()
    encoder = encoder_in(model, module)
    module = module or next(name for name, part in model.named_modules() if part is encoder) or None
    if applied(encoder):
        raise PlanError("doctor looks at a dense model: call sparsight.restore(model) first")
    about: dict[str, Any] = {"version": VERSION, "supported": True, "module": module}
    about["model"] = facts.of_any(encoder)
    try:
        family = family_of(encoder)
    except UnsupportedModelError as error:
        more = {"refusal": str(error), "modules": encoders_inside(encoder)}
        return about | {"supported": False} | more
    devices = about["model"]["devices"]
    if len(devices) != 1 or devices[0] == "meta":
        raise PlanError(
            f"the weights of this model are on {', '.join(devices) or 'no device'}: doctor times "
            "blocks, so load all of the encoder on one device"
        )
    identity(encoder, family)  # refuses weights that are quantised or sharded
    size = size_for(family, encoder, resolution)
    folder = ImageFolder(images, size) if images is not None else None
    about["model"] |= facts.of_family(encoder, family)
    about |= _gains(encoder, family, size, module, str(images or "photos/"))
    about["notes"] = [*facts.notes(encoder, family), *about["notes"]]
    if folder is not None:
        tokens, prefix = about["work"]["tokens"], family.prefix_tokens(encoder)
        about["pictures"] = pictures.look_at(
            folder, family.patch_px(encoder), channels_of(encoder), tokens, prefix
        )
    else:
        about["pictures"] = None
    return about | {"seconds": time.perf_counter() - began}


def size_for(family: Family, encoder: nn.Module, resolution: Sides | None) -> tuple[int, int]:
    """Height and width to look at; ImagesError if the model's patches do not divide them."""
    patch = family.patch_px(encoder)
    if resolution is None:
        return (max(1, round(SIDE / patch[0])) * patch[0], max(1, round(SIDE / patch[1])) * patch[1])
    size = size_of(resolution)
    check_resolution(size, patch)
    return size


def _gains(
    encoder: nn.Module, family: Family, size: tuple[int, int], module: str | None, images: str
) -> dict[str, Any]:
    """What is counted and timed, and what follows from it."""
    first = next(encoder.parameters())
    machine = forms.facts(first.device)
    dense = sharing(encoder)
    try:
        done, found = work(dense, size), ways.ways(dense, size)
    except UnsupportedModelError:
        if family.has_blocks:
            raise
        raise PlanError(  # it is counted without values, and this model reads some
            f"doctor cannot count the work of a {type(encoder).__name__}, which reads the sizes of its "
            "pictures from tensors: make a plan with sparsight.optimize and look at sparsight.measure"
        ) from None
    ours = [way for way in found if way.name in ways.OURS and way.sparse is not None]
    kinds = blocks.kinds_of(family.units(dense), done)
    main = next((kind for kind in kinds if kind.units[0][0] in family.global_layers(dense)), None)
    sparse = [way.sparse for way in ours if way.sparse is not None]
    own, clock = forms.words(first.dtype), Clock(BUDGET_S, first.device)
    with fused(dense, *sparse):
        by_size = sizes.by_size(dense, family, ours, main, clock) if main else []
        more = forms.arms(dense, family, kinds[0].units[0], done)
        timed = blocks.time_kinds(dense, family, ours, done, kinds, clock, more)
    whole, share = blocks.whole_ms(done, kinds)
    speedups = {n: whole / (whole - ms) for n, ms in timed.saved.items() if whole and ms < whole}
    times = {own: kinds[0].ms} | {form: timed.others.get(form) for form in more}
    by_form = forms.rows(times, machine["bfloat16"])
    if main is not None and main.ms is not None:
        by_size = sizes.with_own(by_size, done, size, main, timed.units(kinds.index(main)))
    pays = {way.name: sizes.pays_from(by_size, way.name) for way in ours if _sized(by_size, way.name)}
    tokens = done.calls[(main or kinds[0]).units[0][0]].tokens
    decided = verdict.judge(found, speedups, pays, tokens, by_form, name(size))
    first_way = next((way for way in found if way.name == decided["first"]), None)
    settings = verdict.first_settings(first_way) if first_way else ()
    decided["settings"] = verdict.plain(settings)
    decided["python"] = verdict.in_python(settings, images, module) if settings else None
    return {
        "machine": machine,
        "resolution": list(size),
        "work": {"tokens": tokens, "tokens_by_layer": [c.tokens for c in done.calls],
                 "gflops": done.gflops, "gflops_by_part": done.parts},
        "methods": [ways.row(way, done.gflops) | _timed(way.name, speedups, pays) for way in found],
        "dense": {
            "dtype": own, "whole_ms": whole, "timed_share": share, "forms": by_form,
            "blocks": [{"layers": [n for unit in kind.units for n in unit], "unit_ms": kind.ms,
                        "unit_layers": len(kind.units[0]), "unit_gflops": kind.gflops}
                       for kind in kinds],
        },
        "by_size": by_size,
        "verdict": decided,
        "notes": _busy(machine),
    }  # fmt: skip


def _sized(rows: list[dict[str, Any]], way: str) -> bool:
    return bool(rows) and all(way in row["ms"] for row in rows)


def _timed(name: str, speedups: dict[str, float], pays: dict[str, int | None]) -> dict[str, Any]:
    """What was found out about a method beside its FLOPs."""
    timed = name in pays
    return {"estimate": speedups.get(name), "pays_from_tokens": pays.get(name), "sizes_timed": timed}


def _busy(machine: dict[str, Any]) -> list[str]:
    """A warning, where other work disturbs the timings."""
    load, cores = machine["load"], os.cpu_count() or 1
    if load is None or load <= cores:
        return []
    return [
        f"this machine is busy (load {load:.1f} on {cores} cores): times are rough, so look again when "
        "it is quiet"
    ]
