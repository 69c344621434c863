"""Which tensors a plan brings for each method: by layer, the short name and the shape of each.

In a plan they are called "method.layer.name", as in "sve.3.projector" or "early-exit.3.map.11".
"""

from typing import TYPE_CHECKING, Any

from sparsight.scores import SCORES

if TYPE_CHECKING:
    from torch import nn

    from sparsight.families import Family

Shapes = dict[int, dict[str, tuple[int, ...]]]


def tensor_name(method: str, layer: int, name: str) -> str:
    """What a tensor is called in a plan."""
    return f"{method}.{layer}.{name}"


def none(config: Any, model: "nn.Module", family: "Family") -> Shapes:
    """Of methods that bring nothing."""
    return {}


def of_sve(config: Any, model: "nn.Module", family: "Family") -> Shapes:
    """Of the layers that rank, what the score reads; of each that leaves something out, the map."""
    blocks, found = family.blocks(model), Shapes()
    for layer in config.named_layers:
        dim = family.dim(blocks[layer])
        found[layer] = {} if layer in config.followers() else SCORES[config.score].tensors(dim)
        if config.completion == "map" and max(config.kept_at(layer)) < 1:
            found[layer] = found[layer] | {"map": (dim + 1, dim)}
    return found


def of_local_attention(config: Any, model: "nn.Module", family: "Family") -> Shapes:
    """The maps."""
    if config.completion == "none":
        return {}
    return {
        layer: {"map": (dim + 1, dim)}
        for layer in config.changed_layers(())
        for dim in (family.dim(family.blocks(model)[layer]),)
    }


def of_mlp_routing(config: Any, model: "nn.Module", family: "Family") -> Shapes:
    """What the score reads, and the map."""
    blocks, found = family.blocks(model), Shapes()
    for layer in config.changed_layers(()):
        if config.kept_at(layer) < 1:
            dim = family.dim(blocks[layer])
            maps = {"map": (dim + 1, dim)} if config.completion == "map" else {}
            found[layer] = SCORES[config.score].tensors(dim) | _bound(config) | maps
    return found


def of_early_exit(config: Any, model: "nn.Module", family: "Family") -> Shapes:
    """Of the block after each exit: what the score reads, the bound, and a map to each layer."""
    blocks, found = family.blocks(model), Shapes()
    for exit_ in config.exits:
        dim = family.dim(blocks[exit_])
        own = SCORES[config.score].tensors(dim) | _bound(config)
        found[exit_ + 1] = own | _maps(config.taps_of(exit_, len(blocks)), dim)
    return found


def of_lower_resolution(config: Any, model: "nn.Module", family: "Family") -> Shapes:
    """The map after the last block, of a token and its neighbours."""
    from sparsight.ops.grids import AROUND

    blocks = family.blocks(model)
    if config.completion == "none":
        return {}
    last = len(blocks) - 1
    dim = family.dim(blocks[last])
    return {last: {"map": (len(AROUND) * dim + 1, dim)}}


def of_bypass(config: Any, model: "nn.Module", family: "Family") -> Shapes:
    """Of each layer that tokens bypass, what the score reads, and the map."""
    blocks, found = family.blocks(model), Shapes()
    for layer in config.named_layers:
        if config.kept_at(layer) < 1:
            dim = family.dim(blocks[layer])
            maps = _maps((layer,), dim) if config.completion == "map" else {}
            found[layer] = SCORES[config.score].tensors(dim) | maps
    return found


def of_merging(config: Any, model: "nn.Module", family: "Family") -> Shapes:
    """Of the last block, the map of what tokens were beside their groups."""
    blocks = family.blocks(model)
    if config.completion != "map":
        return {}
    dim = family.dim(blocks[len(blocks) - 1])
    return {len(blocks) - 1: {"map": (dim + 1, dim)}}


def of_spot(config: Any, model: "nn.Module", family: "Family") -> Shapes:
    """The networks, one for each stage, and a map to each layer."""
    from sparsight.methods.spot.config import network_shapes
    from sparsight.ops.dynamics import statistic_names

    blocks, found = family.blocks(model), Shapes()
    each = len(statistic_names(family.prefix_tokens(model)))
    for stage in config.named_stages:
        dim = family.dim(blocks[stage])
        statistics = sum(family.heads(blocks[layer]) * each for layer in config.noting(stage))
        maps = _maps(config.taps_of(stage, len(blocks)), dim)
        found[stage] = network_shapes(config, dim, statistics) | maps
    return found


def of_asvit(config: Any, model: "nn.Module", family: "Family") -> Shapes:
    """The threshold of each stage, and the map."""
    blocks, found = family.blocks(model), Shapes()
    for stage in config.named_stages:
        last = (len(blocks) - 1,) if config.completion == "map" else ()
        found[stage] = {"threshold": ()} | _maps(last, family.dim(blocks[stage]))
    return found


def of_sparsevit(config: Any, model: "nn.Module", family: "Family") -> Shapes:
    """Of the block that scores a stage, what the score reads; of each, the map."""
    blocks, found = family.blocks(model), Shapes()
    if config.completion == "last":
        return found
    for layer in config.changed_layers(()):
        dim = family.dim(blocks[layer])
        own = SCORES[config.score].tensors(dim) if config.leads(layer) else {}
        found[layer] = own | _bound(config) | {"map": (dim + 1, dim)}
    return found


def _bound(config: Any) -> dict[str, tuple[int, ...]]:
    return {"bound": ()} if config.bound == "calibrated" else {}


def _maps(layers: tuple[int, ...], dim: int) -> dict[str, tuple[int, ...]]:
    return {f"map.{layer}": (dim + 1, dim) for layer in layers}
