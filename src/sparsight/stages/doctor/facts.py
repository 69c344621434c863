"""What a model is: library, class, family, size, and which of its layers can become sparse."""

import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import nn

from sparsight.errors import PlanError
from sparsight.families import Family
from sparsight.families.base import classes_of
from sparsight.families.calls import wants_maps
from sparsight.inplace import check_changeable


def of_any(model: nn.Module) -> dict[str, Any]:
    """What holds of any module, supported or not."""
    parameters = list(model.parameters())
    sizes: Counter[str] = Counter()
    for parameter in parameters:
        sizes[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return {
        "class": next(classes_of(model)),
        "library": library(model),
        "parameters": sizes.total(),
        "dtypes": dict(sizes.most_common()),
        "devices": sorted({str(parameter.device) for parameter in parameters}),
    }


def library(model: nn.Module) -> dict[str, str | None]:
    """Name and version of the package that the model's class comes from."""
    name = type(model).__module__.partition(".")[0]
    try:
        return {"name": name, "version": version(name)}
    except PackageNotFoundError:
        return {"name": name, "version": getattr(sys.modules.get(name), "__version__", None)}


def of_family(model: nn.Module, family: Family) -> dict[str, Any]:
    """Where a supported encoder has its blocks, and which of them can become sparse."""
    blocks, windowed = family.blocks(model), family.layers_with("windows", model)
    every, open_ = tuple(range(len(blocks))), family.global_layers(model)
    kinds = {"global": open_, "windows": windowed}
    return {
        "family": family.name,
        "verified_with": family.verified_with,
        "blocks": len(every),
        "dim": sorted({family.dim(block) for block in blocks}),
        "heads": sorted({family.heads(block) for block in blocks}),
        "prefix_tokens": family.prefix_tokens(model),
        "patch_px": list(family.patch_px(model)),
        "attention": " and ".join(kind for kind, layers in kinds.items() if layers),
        "sparse_layers": sorted({*open_, *windowed}),
        "window_layers": list(windowed),
        "dense_layers": [n for n in every if n not in open_ and n not in windowed],
    }


def notes(model: nn.Module, family: Family) -> list[str]:
    """What would keep a plan from being made or run, in sentences."""
    found, blocks = [], family.blocks(model)
    for layer, block in enumerate(blocks):
        names = ("attention", "mlp", "block") if family.has_blocks else ("attention",)
        parts = {
            part: family.parts.changed(block, part)
            for part in names
            if part != "mlp" or hasattr(block, part)
        }
        try:
            for part, module in parts.items():
                check_changeable(module, f"the {part} of layer {layer}")
        except PlanError as error:
            found.append(str(error))
            break  # one is enough to say: the others are likely the same
    if any(wants_maps(family.parts.attention(block)) for block in blocks):
        found.append(
            "its settings ask for attention maps (output_attentions), which a sparse layer has not: "
            "switch that off first"
        )
    return found
