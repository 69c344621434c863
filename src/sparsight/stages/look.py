"""Look: what a model did on single pictures, as small maps over the token grid, for people to see.

For each picture: the average attention of the dense model and the score the sparse one ranked by, which
tokens were kept (SVE), when each left (SPOT, ClsTopK), how often each was skipped with its window
(SparseViT), and the final features, dense and sparse, as colours.  Prefix tokens have no place on the
grid and are left out.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.attach import applied, family_in
from sparsight.errors import PlanError
from sparsight.files import write_atomically
from sparsight.images import IMAGENET_MEAN, IMAGENET_STD, Images, named
from sparsight.methods import SVE
from sparsight.methods.sparsevit.block import CARRY as WINDOWS
from sparsight.methods.sparsevit.block import WindowBlock
from sparsight.methods.sparsevit.config import dropped_count
from sparsight.methods.sve import score
from sparsight.methods.sve.block import PROJECTOR, SparseBlock
from sparsight.ops import fidelity
from sparsight.ops.grids import padded_grid_of
from sparsight.ops.partition import rank
from sparsight.ops.statistics import recall
from sparsight.run import LOOK_FILE
from sparsight.stages.observe import LayerView, evaluating, stages_left, watch
from sparsight.stages.progress import track

THUMBNAIL_PX = 448  # the longer side of the stored picture
TRUE_FRACTION = 1 / 8


@dataclass(frozen=True)
class Look:
    """One picture: maps (rows, columns) by name, and figures."""

    name: str
    relative_error: float
    cosine: float
    maps: dict[str, Tensor]  # "picture" (h, w, 3) and "features ..." are bytes, the others numbers
    recalls: dict[int, float] = field(default_factory=dict)  # of the top 1/8, by sparse layer


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
        yield _look(dense, sparse, state.plan.method, picture, layers, images, place)


def _look(
    dense: nn.Module, sparse: nn.Module, method: Any, picture: Tensor, layers: Sequence[int],
    images: Images, place: int,
) -> Look:  # fmt: skip
    """One picture (1, 3, height, width)."""
    family, size = family_in(dense), (picture.shape[2], picture.shape[3])
    prefix, blocks = family.prefix_tokens(dense), family.blocks(sparse)
    followed = method.followers() if isinstance(method, SVE) else {}
    watched = sorted({*layers, *(followed[n] for n in layers if n in followed)})
    averages: dict[int, Tensor] = {}
    views: dict[int, LayerView] = {}
    with evaluating(dense), watch(dense, layers, lambda view: averages.update({view.layer: view.m})):
        wanted = family.features(dense, picture).flatten(1, -2)
    with evaluating(sparse), watch(sparse, watched, lambda view: views.update({view.layer: view})):
        with skipped_windows(sparse) as skipped:
            got = family.features(sparse, picture).flatten(1, -2)
        maps, recalls = {"picture": thumbnail(picture[0], images)}, dict[int, float]()
        for layer in layers:
            exact = averages[layer][:, prefix:]
            maps[f"layer {layer} exact"] = _grid(exact[0], size)
            if isinstance(blocks[layer], SparseBlock):
                ranked = predicted(blocks, views, followed.get(layer, layer))
                kept = _kept(blocks[layer], ranked, prefix)[prefix:]
                maps[f"layer {layer} predicted"] = _grid(ranked[0, prefix:], size)
                maps[f"layer {layer} kept"] = _grid(kept, size)
                share = max(1.0, (kept > 0).sum().item()) / len(kept)
                recalls[layer] = recall(ranked[:, prefix:], exact, share, TRUE_FRACTION).item()
    if getattr(method, "stages", None) is not None:
        maps["left"] = _grid(stages_left(sparse, picture)[0, prefix:], size)
    for stage, often in skipped.items():
        maps[f"stage {stage + 1} skipped"] = _grid(often, size)
    maps |= _features(wanted, got, prefix, size)
    return Look(
        named(images, place), fidelity.relative_error(got, wanted).item(),
        fidelity.cosine(got, wanted).item(), maps, recalls,
    )  # fmt: skip


def predicted(blocks: Any, views: dict[int, LayerView], layer: int) -> Tensor:
    """The score (b, n) by which a layer ranks its tokens, and those of the layers that reuse it."""
    view, block = views[layer], blocks[layer]
    if block.config.scorer == "linear":
        return score.linear(view.h, block.tensors[PROJECTOR])
    return block.score(view.q, view.k)


def _kept(block: Any, ranked: Tensor, prefix: int) -> Tensor:
    """(n,) of the first picture: 2 sees all and is seen by all, 1 one of the two, 0 neither."""
    queries, keys, _ = block.counts(ranked.shape[1])
    order, kept = rank(ranked, prefix)[0].cpu(), torch.zeros(ranked.shape[1])
    kept[order[:keys]] += 1
    kept[order[:queries]] += 1
    return kept


@contextmanager
def skipped_windows(model: nn.Module) -> Iterator[dict[int, Tensor]]:
    """While in here, the dictionary holds for each stage how often each token (n,) was skipped."""
    found: dict[int, Tensor] = {}

    def hook(block: Any, args: Any, output: Any) -> None:
        x = output if isinstance(output, Tensor) else output[0]
        carry, layout = getattr(x, WINDOWS, None), block.layout
        if carry is None or layout is None:  # all windows were kept
            return
        table, order = layout[1].table.cpu(), carry.orders[layout[1].shift][0].cpu()
        dropped = dropped_count(len(table), block.config.by_pair[block.layer // 2])
        stage, n = block.stage, x[0, ..., 0].numel()
        skipped = torch.zeros(int(table.max()) + 1)
        skipped[table[order[len(table) - dropped :]].reshape(-1)] = 1
        share = skipped[:n] / (2 * len(block.config.by_stage[stage]))
        found[stage] = found.get(stage, torch.zeros(n)) + share

    blocks = [block for block in family_in(model).blocks(model) if isinstance(block, WindowBlock)]
    handles = [block.register_forward_hook(hook) for block in blocks]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _features(dense: Tensor, sparse: Tensor, prefix: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Final features as colours, by the main components of the dense ones, and how far apart."""
    dense, sparse = dense[0, prefix:].float(), sparse[0, prefix:].float()
    mean = dense.mean(0)
    axes = torch.linalg.eigh((dense - mean).T @ (dense - mean)).eigenvectors[:, -3:]
    colours = [(x - mean) @ axes for x in (dense, sparse)]
    low, high = colours[0].quantile(0.01, dim=0), colours[0].quantile(0.99, dim=0)
    scaled = [((c - low) / (high - low).clamp_min(1e-9)).clamp(0, 1) * 255 for c in colours]
    moved = (sparse - dense).norm(dim=1) / dense.norm(dim=1).mean()
    return {
        "features dense": _grid(scaled[0].to(torch.uint8), size),
        "features sparse": _grid(scaled[1].to(torch.uint8), size),
        "features difference": _grid(moved, size),
    }


def _grid(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, ...) -> (rows, columns, ...) on the CPU."""
    return tokens.detach().cpu().unflatten(0, padded_grid_of(tokens.shape[0], size)).contiguous()


def thumbnail(picture: Tensor, images: Images) -> Tensor:
    """A normalised picture (3, h, w) as bytes (h', w', 3), small."""
    given = [getattr(images, name, None) for name in ("mean", "std")]
    normal = [
        own if isinstance(own, tuple) else usual
        for own, usual in zip(given, (IMAGENET_MEAN, IMAGENET_STD), strict=True)
    ]
    mean, std = (torch.tensor(values, device=picture.device)[:, None, None] for values in normal)
    scale = min(1.0, THUMBNAIL_PX / max(picture.shape[1:]))
    height, width = (max(1, round(side * scale)) for side in picture.shape[1:])
    small = F.interpolate(picture[None].float(), (height, width), mode="bilinear", antialias=True)[0]
    return ((small * std + mean).clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).cpu().contiguous()


def save_looks(looks: Sequence[Look], folder: Path) -> None:
    """All maps in one file, `look.safetensors`, their names and figures in its header."""
    from safetensors.torch import save_file

    tensors = {f"{n}/{key}": value for n, one in enumerate(looks) for key, value in one.maps.items()}
    facts = [
        {"name": one.name, "relative_error": one.relative_error, "cosine": one.cosine,
         "recalls": {str(layer): value for layer, value in one.recalls.items()}}
        for one in looks
    ]  # fmt: skip
    header = {"looks": json.dumps(facts)}
    write_atomically(folder / LOOK_FILE, lambda path: save_file(tensors, path, metadata=header))
