"""Kept: how much each picture kept, where that depends on the picture, as it does under a bound.

A figure is a share: of its tokens, or windows, those that a method's layers work on, in the mean over
these layers; 1 where a layer ran dense.
"""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sparsight.attach import applied, family_in
from sparsight.methods import method_of
from sparsight.methods.groups import noting
from sparsight.methods.site import Site

Kept = dict[str, float]  # by method


@dataclass
class Counts:
    """Of the pictures that went through a model, in their order."""

    pictures: list[Kept] = field(default_factory=list)
    least: list[Kept] = field(default_factory=list)  # what stays of each in any case

    def last(self, count: int) -> "Counts":
        """Of the last so many pictures, once each."""
        first = max(0, len(self.pictures) - count)
        return Counts(self.pictures[first:], self.least[first:])

    def spread(self) -> dict[str, dict[str, float]]:
        """For each method the least, the middle and the most that a picture kept."""
        found = {}
        for name in self.pictures[0] if self.pictures else ():
            shares = [picture[name] for picture in self.pictures]
            found[name] = {"min": min(shares), "median": statistics.median(shares), "max": max(shares)}
        return found

    def notes(self) -> list[str]:
        """Sentences for a bound under which nothing leaves, or everything."""
        found, count = [], len(self.pictures)
        for name, share in self.spread().items():
            least = max(picture[name] for picture in self.least)
            if least == 1:  # too few tokens: it ran dense, which is said elsewhere
                continue
            if share["min"] == 1:
                found.append(
                    f"{name} leaves nothing out of any of {count} pictures: its bound allows too little "
                    "to gain anything on them"
                )
            elif share["max"] <= least:
                found.append(
                    f"{name} leaves out all that it may of each of {count} pictures ({share['max']:.0%} "
                    "stays at most): its bound allows more than any of them needs, and holds nothing"
                )
        return found


@contextmanager
def counted(model: nn.Module) -> Iterator[Counts]:
    """While in here, the pictures that go through `model` are counted; none if no plan's counts depend
    on them.
    """
    counts, sites = Counts(), _sites(model)
    if not sites:
        yield counts
        return
    blocks = family_in(model).blocks(model)

    def begin(block: nn.Module, args: Any) -> None:
        for site in sites:
            site.noted = None

    def end(block: nn.Module, args: Any, output: Any) -> None:
        x = output if isinstance(output, Tensor) else output[0]
        for place in range(len(x) if x.ndim > 2 else 1):
            counts.pictures.append(_means(sites, lambda note, n=place: note.kept[n] / note.of))
            counts.least.append(_means(sites, lambda note: note.least / note.of))

    handles = [
        blocks[0].register_forward_pre_hook(begin), blocks[len(blocks) - 1].register_forward_hook(end)
    ]  # fmt: skip
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def depends_on_picture(model: nn.Module) -> bool:
    """Whether a plan is applied under which pictures of one size keep different counts."""
    return bool(_sites(model))


def _sites(model: nn.Module) -> list[Site]:
    return [] if applied(model) is None else list(noting(model))


def _means(sites: Sequence[Site], share: Any) -> Kept:
    """By method, the mean over its layers of a share that each notes."""
    found: dict[str, list[float]] = {}
    for site in sites:
        value = 1.0 if site.noted is None else share(site.noted)
        found.setdefault(method_of(site.config).name, []).append(value)
    return {name: statistics.fmean(values) for name, values in found.items()}
