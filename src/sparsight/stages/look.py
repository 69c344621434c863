"""Look: what a model did on single pictures, as small maps over the token grid, for people to see.

For each picture: the average attention of the dense model and the score the sparse one ranked by, which
tokens were kept (SVE), when each left (EarlyExit, SPOT, ClsTopK, ASViT), how often each was skipped with
its window (SparseViT), and the final features, dense and sparse, as colours.  Prefix tokens have no
place on the grid and are left out.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsight.attach import applied, family_in
from sparsight.errors import PlanError
from sparsight.files import write_atomically
from sparsight.images import Images, named
from sparsight.methods import SVE
from sparsight.modes import evaluating
from sparsight.ops import fidelity
from sparsight.ops.statistics import recall
from sparsight.plan import Plan
from sparsight.run import LOOK_FILE
from sparsight.stages import maps
from sparsight.stages.calibrate import TRUE_FRACTION
from sparsight.stages.kept import counted
from sparsight.stages.observe import LayerView, leaving_stages, stages_left, watch
from sparsight.stages.progress import track


@dataclass(frozen=True)
class Look:
    """One picture: maps (rows, columns) by name, and figures."""

    name: str
    relative_error: float
    cosine: float
    maps: dict[str, Tensor]  # "picture" (h, w, 3) and "features ..." are bytes, the others numbers
    recalls: dict[int, float] = field(default_factory=dict)  # of the top 1/8, by sparse layer
    kept: dict[str, float] = field(default_factory=dict)  # by method whose counts depend on the picture


def look(
    dense: nn.Module,
    sparse: nn.Module,
    images: Images,
    places: Sequence[int],
    layers: Sequence[int] = (),
) -> Iterator[Look]:
    """Look at some pictures, one at a time; `layers` are those whose attention is shown.

    `sparse` is a copy of `dense` with a plan applied.  No map of N x N is built.
    """
    state = applied(sparse)
    if state is None:
        raise PlanError("look compares a dense model with a sparse one: apply a plan to a copy first")
    like = next(dense.parameters())
    for place in track(places, "Looking", len(places)):
        picture = images[place][None].to(like.device, like.dtype)
        yield _look(dense, sparse, state.plan, picture, layers, images, place)


def _look(
    dense: nn.Module, sparse: nn.Module, plan: Plan, picture: Tensor, layers: Sequence[int],
    images: Images, place: int,
) -> Look:  # fmt: skip
    """One picture (1, 3, height, width)."""
    family, size = family_in(dense), (picture.shape[2], picture.shape[3])
    prefix, blocks = family.prefix_tokens(dense), family.blocks(sparse)
    config = plan.find(SVE)
    sparse_layers = config.named_layers if config else ()
    leaders = config.followers() if config else {}
    watched = sorted({leaders.get(layer, layer) for layer in layers if layer in sparse_layers})
    averages: dict[int, Tensor] = {}
    views: dict[int, LayerView] = {}
    with evaluating(dense), watch(dense, layers, lambda view: averages.update({view.layer: view.m})):
        wanted = family.features(dense, picture).flatten(1, -2)
    seeing = watch(sparse, watched, lambda view: views.update({view.layer: view}))
    with evaluating(sparse), seeing, maps.skipped_windows(sparse) as skipped, counted(sparse) as shares:
        got = family.features(sparse, picture).flatten(1, -2)
    found, recalls = {"picture": maps.thumbnail(picture[0], images)}, dict[int, float]()
    for layer in layers:
        exact = averages[layer][:, prefix:]
        found[f"layer {layer} exact"] = maps.on_grid(exact[0], size)
        if layer in sparse_layers:
            leader = leaders.get(layer, layer)
            view, ranking = views[leader], family.parts.attention(blocks[leader])
            with torch.no_grad():
                scored = ranking.scored(view.h, view.q, view.k, view.v)
            counts = family.parts.attention(blocks[layer]).counts(scored.shape[1])
            kept = maps.kept(scored, counts, prefix)[prefix:]
            found[f"layer {layer} predicted"] = maps.on_grid(scored[0, prefix:], size)
            found[f"layer {layer} kept"] = maps.on_grid(kept, size)
            share = max(1.0, (kept > 0).sum().item()) / len(kept)
            recalls[layer] = recall(scored[:, prefix:], exact, share, TRUE_FRACTION).item()
    if leaving_stages(plan):
        found["left"] = maps.on_grid(stages_left(sparse, picture)[0, prefix:], size)
    for stage, often in skipped.items():
        found[f"stage {stage + 1} skipped"] = maps.on_grid(often, size)
    found |= maps.features(wanted, got, prefix, size)
    (of_it,) = shares.pictures or [{}]
    return Look(
        named(images, place), fidelity.relative_error(got, wanted).item(),
        fidelity.cosine(got, wanted).item(), found, recalls, of_it,
    )  # fmt: skip


def save_looks(looks: Sequence[Look], folder: Path) -> None:
    """All maps in one file, `look.safetensors`, their names and figures in its header."""
    from safetensors.torch import save_file

    tensors = {f"{n}/{key}": value for n, one in enumerate(looks) for key, value in one.maps.items()}
    facts = [
        {"name": one.name, "relative_error": one.relative_error, "cosine": one.cosine,
         "recalls": {str(layer): value for layer, value in one.recalls.items()}, "kept": one.kept}
        for one in looks
    ]  # fmt: skip
    header = {"looks": json.dumps(facts)}
    write_atomically(folder / LOOK_FILE, lambda path: save_file(tensors, path, metadata=header))
