"""Pictures of a batch that keep different counts: those that keep as many run together.

So what becomes of a picture does not depend on the others of its batch, and a full one costs no other
picture anything.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from sparsight.inplace import STATE
from sparsight.methods.site import Noted, Site

State = TypeVar("State")
Places = Tensor | None  # of pictures (g,) in the batch; None: all of them


@dataclass(frozen=True)
class Groups(Generic[State]):
    """The places (g,) of each group's pictures in the batch, and what is known of these alone."""

    parts: tuple[tuple[Tensor, State], ...]


def alike(counts: Sequence[int], device: torch.device) -> list[tuple[Places, int]]:
    """Which pictures keep how many, the fullest first: whoever watches sees the sparsest run last."""
    different = sorted(set(counts), reverse=True)
    if len(different) == 1:
        return [(None, different[0])]
    found = [(count, [n for n, own in enumerate(counts) if own == count]) for count in different]
    return [(torch.tensor(places, device=device), count) for count, places in found]


def of_pictures(values: Any, places: Places) -> Any:
    """The rows of some pictures: of a tensor (b, ...), and of every tensor in a tuple."""
    if places is None or values is None:
        return values
    if isinstance(values, Tensor):
        return values.index_select(0, places)
    return tuple(of_pictures(value, places) for value in values)


def each(
    module: nn.Module, groups: Sequence[tuple[Places, Any]], run: Callable[[Places, Any], Tensor]
) -> Tensor:
    """What `run` makes of every group, as one batch in its own order; what sites noted likewise."""
    if groups[0][0] is None:
        return run(*groups[0])
    sites, results = list(noting(module)), list[Tensor]()
    notes: list[list[Noted | None]] = []
    for group in groups:
        for site in sites:
            site.noted = None
        results.append(run(*group))
        notes.append([site.noted for site in sites])
    order = torch.cat([places for places, _ in groups if places is not None]).argsort()
    for site, own in zip(sites, zip(*notes, strict=True), strict=True):
        site.noted = Noted.joined(own, order.tolist())
    return torch.cat(results).index_select(0, order)


def noting(module: nn.Module) -> Iterator[Site]:
    """The sites of those parts whose counts depend on the picture."""
    for part in module.modules():
        site = part.__dict__.get(STATE)
        if isinstance(site, Site) and site.config.depends_on_picture:
            yield site
