"""Route: fit the linear maps that stand in for the MLP where tokens skip it.

    W = argmin sum over skipping tokens of || mlp(x) - [norm(x), 1] W ||^2 + ridge ||W||^2

in closed form, from a few pictures without labels.  The MLP of tokens that do not stand out is close to
linear: they are many and alike.  x is what the block's second half reads, mlp(x) what it adds.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sparsight.attach import family_in
from sparsight.images import Images, Reader
from sparsight.methods import map_name
from sparsight.ops.partition import rank, take
from sparsight.ops.routing import extended, standout
from sparsight.stages.observe import evaluating
from sparsight.stages.progress import track

RIDGE = 1e-4  # of the mean square of what the map reads: enough for columns that are always zero
SKIPPING = 3 / 4  # the share of the tokens, the least outstanding, that a map is fitted to


def fit_maps(
    model: nn.Module, images: Images, layers: Iterable[int], max_images: int
) -> dict[str, Tensor]:
    """The maps of `layers` by their names in a plan, each (c + 1, c)."""
    family, layers = family_in(model), tuple(layers)
    sums: dict[int, tuple[Tensor, Tensor]] = {}
    blocks = family.blocks(model)
    handles = [
        blocks[n].register_forward_pre_hook(_adding(sums, n, model), with_kwargs=True) for n in layers
    ]
    reader, device = Reader(images), next(model.parameters()).device
    try:
        with evaluating(model):
            count = min(max_images, len(images))
            for picture in track(reader.spread(max_images), "Fitting maps", count):
                family.features(model, picture[None].to(device))
    finally:
        for handle in handles:
            handle.remove()
    return {map_name(n): solved(*sums[n]) for n in layers}


def _adding(sums: dict[int, tuple[Tensor, Tensor]], layer: int, model: nn.Module) -> Callable[..., None]:
    """A hook that adds up A^T A and A^T Y of a layer's skipping tokens."""
    family, parts = family_in(model), family_in(model).parts
    prefix = family.prefix_tokens(model)

    def hook(block: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        x = args[0].flatten(1, -2)
        h = parts.norm(block, x)
        tables = {k: kwargs[k] for k in family.per_token if kwargs.get(k) is not None}
        out = scaled_dot_product_attention(*parts.qkv(block, h, **tables)).transpose(1, 2)
        x = parts.residual(block, x, parts.merge(block, out, h))
        through = x.shape[1] - round(SKIPPING * x.shape[1])
        x = take(x, rank(standout(x, prefix), prefix)[:, through:])
        y = (parts.mlp(block, x) - x).flatten(0, 1).double()
        a = extended(x).flatten(0, 1).double()
        before = sums.get(layer, (0.0, 0.0))
        sums[layer] = (before[0] + a.T @ a, before[1] + a.T @ y)

    return hook


def solved(gram: Tensor, target: Tensor) -> Tensor:
    """The ridge regression from A^T A (e, e) and A^T Y (e, c)."""
    ridge = RIDGE * gram.diagonal().mean()
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram), device=gram.device), target).float()
