"""The maps of a look: numbers and colours over the token grid, small and on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.attach import family_in
from sparsight.images import IMAGENET_MEAN, IMAGENET_STD, Images
from sparsight.methods.sparsevit.block import CARRY, WindowBlock
from sparsight.ops.grids import padded_grid_of
from sparsight.ops.partition import top

THUMBNAIL_PX = 448  # the longer side of the stored picture


def on_grid(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, ...) -> (rows, columns, ...) on the CPU, for a picture of `size` = (height, width)."""
    return tokens.detach().cpu().unflatten(0, padded_grid_of(tokens.shape[0], size)).contiguous()


def kept(scored: Tensor, counts: tuple[int, int], prefix: int) -> Tensor:
    """(n,) of the first picture: 2 sees all and is seen by all, 1 one of the two, 0 neither."""
    ranked, found = (
        top(scored, max(counts), prefix)[0].cpu(),
        torch.zeros(scored.shape[1], dtype=torch.float32, device="cpu"),
    )
    for count in counts:
        found[ranked[:count]] += 1
    return found


@contextmanager
def skipped_windows(model: nn.Module) -> Iterator[dict[int, Tensor]]:
    """While in here, the dictionary holds for each stage how often each token (n,) was skipped."""
    found: dict[int, Tensor] = {}

    def hook(block: Any, args: Any, output: Any) -> None:
        x = output if isinstance(output, Tensor) else output[0]
        carry, laid = getattr(x, CARRY, None), block._sparsight.shared
        if carry is None or laid is None:  # all windows were kept
            return
        layout, n = laid[1], carry.scores.shape[1]
        ((_, kept),) = block.counts(layout, carry)  # of one picture
        dropped = carry.orders[layout.shift][0, kept:]
        skipped = torch.zeros(int(layout.table.max()) + 1, dtype=torch.float32, device="cpu")
        skipped[layout.table[dropped].flatten().cpu()] = 1
        share = skipped[:n] / len(block._sparsight.config.stages[block.stage])
        found[block.stage] = (
            found.get(block.stage, torch.zeros(n, dtype=torch.float32, device="cpu")) + share
        )

    blocks = [block for block in family_in(model).blocks(model) if isinstance(block, WindowBlock)]
    handles = [block.register_forward_hook(hook) for block in blocks]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def features(dense: Tensor, sparse: Tensor, prefix: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Final features as colours, by the main components of the dense ones, and how far apart."""
    dense, sparse = dense[0, prefix:].float(), sparse[0, prefix:].float()
    mean = dense.mean(0)
    axes = torch.linalg.eigh((dense - mean).T @ (dense - mean)).eigenvectors[:, -3:]
    colours = [(x - mean) @ axes for x in (dense, sparse)]
    low, high = colours[0].quantile(0.01, dim=0), colours[0].quantile(0.99, dim=0)
    scaled = [((c - low) / (high - low).clamp_min(1e-9)).clamp(0, 1) * 255 for c in colours]
    moved = (sparse - dense).norm(dim=1) / dense.norm(dim=1).mean()
    return {
        "features dense": on_grid(scaled[0].to(torch.uint8), size),
        "features sparse": on_grid(scaled[1].to(torch.uint8), size),
        "features difference": on_grid(moved, size),
    }


def thumbnail(picture: Tensor, images: Images) -> Tensor:
    """A normalised picture (3, h, w) as bytes (h', w', 3), small."""
    given = [getattr(images, name, None) for name in ("mean", "std")]
    normal = [
        own if isinstance(own, tuple) else usual
        for own, usual in zip(given, (IMAGENET_MEAN, IMAGENET_STD), strict=True)
    ]
    if len(picture) != 3:  # of other channels, the first three as colours, or the first as grey
        picture = picture[:3] if len(picture) > 3 else picture[:1].expand(3, -1, -1)
        normal = [
            values[:3] if len(values) > 3 else (*values, *values, *values)[:3] for values in normal
        ]
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=picture.device)[:, None, None]
        for values in normal
    )
    scale = min(1.0, THUMBNAIL_PX / max(picture.shape[1:]))
    height, width = (max(1, round(side * scale)) for side in picture.shape[1:])
    small = F.interpolate(picture[None].float(), (height, width), mode="bilinear", antialias=True)[0]
    return ((small * std + mean).clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).cpu().contiguous()
