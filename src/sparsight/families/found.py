"""Where a model that no file describes attends: found by a dry run, as data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from sparsight.families.dry_run import Seen, dry_run
from sparsight.families.inputs import (
    channels_of,
    inputs_of,
    merge_of,
    own_size,
    patch_of,
    takes_clips,
)
from sparsight.families.parts import Host
from sparsight.families.projection import name_of
from sparsight.families.window_blocks import drops_windows

if TYPE_CHECKING:
    from torch import Tensor

PATCHES = 32  # a side, of the picture for a model that does not say its own size
MOST_PREFIX = 64  # tokens; more than this are no class token and registers


@dataclass(frozen=True)
class Site:
    """One place that attends, by its path in the model."""

    path: str  # of the attention module
    block: str  # of what stands around it
    tokens: int
    heads: int
    dim: int  # the width of what it reads
    whole: bool  # a whole picture at once, behind no mask: it can be sparse
    reads_tokens: bool  # a row for each token, and returns the like: a map can stand beside it
    windowed: bool  # its block can drop windows
    projection: str = ""  # what of it reads the heads' results, if one weight does, as they are


@dataclass(frozen=True)
class Found:
    """What a dry run found of a model, as data."""

    kind: str
    prefix: int
    patch_px: tuple[int, int]
    flat: bool  # see inputs_of
    sites: tuple[Site, ...]
    size_px: tuple[int, int] = (0, 0)  # height and width of the picture it was run on


NOTHING = Found("", 0, (1, 1), True, ())  # before anything is found

# What was found in a model, and in which modules: a dry run is not made twice of the same.
KNOWN: WeakKeyDictionary[Host, tuple[tuple[int, ...], Found | str]] = WeakKeyDictionary()


def found_in(model: Host) -> Found | str:
    """What a dry run finds in `model`; or why it cannot become sparse, in words."""
    modules = tuple(map(id, model.modules()))
    known = KNOWN.get(model)
    if known is None or known[0] != modules:
        KNOWN[model] = known = (modules, _found_in(model))
    return known[1]


def _found_in(model: Host) -> Found | str:
    px, merge = patch_of(model), merge_of(model)
    usual = (PATCHES // merge * merge * (px or 16),) * 2
    sizes = dict.fromkeys((own_size(model) or usual, usual))
    like = next(model.parameters(), None)
    if like is None:
        return "it has no weights"
    why = ""
    for size, flat in product(sizes, (True, False)):
        shape = (1, channels_of(model), *size)
        pictures = torch.zeros(shape, device=like.device, dtype=like.dtype)
        try:
            seen = dry_run(model, inputs_of(model, pictures, flat))
            break
        except Exception as error:  # whatever a foreign model raises
            told = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
            why = why or f"it could not be run on a picture of {size[0]} x {size[1]} ({told})"
    else:
        if takes_clips(model):
            return "it takes clips of several frames, which have no adapter, and no single pictures"
        return why
    queries = _queries(model, pictures, flat, merge * (px or 16), seen)
    sites = _sites(model, seen, queries)
    whole = [site for site in sites if site.whole]
    if not whole:
        return _why_none(seen)
    prefix, px = _prefix(whole[0].tokens, size, px, seen)
    return Found(type(model).__name__, prefix, (px * merge, px * merge), flat, tuple(sites), size)


def _queries(model: Host, pictures: "Tensor", flat: bool, step: int, seen: Sequence[Seen]) -> set[Host]:
    """What attends to queries of a decoder, alone or beside the picture's tokens (EoMT's last blocks).

    Told by a smaller picture, in which they are as many as before.  Where only one size is taken: a
    block that is given more tokens than the first one of its list.
    """
    first = next((one for one in seen if one.whole), None)
    height, width = (side // 2 // step * step for side in pictures.shape[2:])
    if first is None:
        return set()
    try:
        smaller = dry_run(model, inputs_of(model, pictures[..., :height, :width], flat))
    except Exception:
        names = {module: name for name, module in model.named_modules()}
        blocks = {one.module: _block(names[one.module]).rpartition(".")[0] for one in seen}
        alike = [one for one in seen if blocks[one.module] == blocks[first.module]]
        return {one.module for one in alike if one.tokens > first.tokens}
    small = {one.module: one.tokens for one in smaller}
    fewer = {one.module: one.tokens - small.get(one.module, 0) for one in seen}
    joined = [m for m in small if small[m] > small.get(first.module, 0)]
    return {m for m in fewer if not fewer[m] or (m in joined and fewer[m] == fewer[first.module])}


def _sites(model: Host, seen: Sequence[Seen], queries: set[Host]) -> list[Site]:
    names = {module: name for name, module in model.named_modules()}
    return [
        Site(
            path=names[one.module], block=_block(names[one.module]),
            tokens=one.tokens // len(one.calls) if one.whole else one.tokens,
            heads=one.calls[0][1], dim=one.reads[-1] if one.reads else 0,
            whole=one.whole and one.module not in queries, reads_tokens=one.reads_tokens,
            projection=name_of(one.module, one.readers) if len(one.calls) == 1 else "",
            windowed=drops_windows(model.get_submodule(_block(names[one.module]))),
        )
        for one in seen
        if any(plain for *_, plain in one.calls) or one.biased
    ]  # fmt: skip


def _block(path: str) -> str:
    """The innermost module of a numbered list that holds `path`, or that itself."""
    steps = path.split(".")
    numbered = [place for place, step in enumerate(steps) if step.isdigit()]
    return ".".join(steps[: numbered[-1] + 1]) if numbered else path


def _prefix(tokens: int, size: tuple[int, int], px: int | None, seen: Sequence[Seen]) -> tuple[int, int]:
    """How many tokens stand before the patches, and the side of a patch in pixels."""
    height, width = size
    if px is not None and 0 <= (rest := tokens - (height // px) * (width // px)) <= MOST_PREFIX:
        windows = {batch for one in seen for batch, _, n, _ in one.calls if batch * n == tokens}
        # A class token for each window stands before that one's patches (RF-DETR): ranked as they are.
        return (0 if any(batch > 1 and rest % batch == 0 for batch in windows) else rest), px
    side = math.isqrt(tokens * height // width)  # the model does not say it, or has pooled since
    rest = tokens - side * (side * width // height)
    return (rest if rest <= min(side, MOST_PREFIX) else 0), height // side


def _why_none(seen: Sequence[Seen]) -> str:
    """Why no site of a model can be sparse; nothing to say if it has none."""
    if any(one.biased for one in seen):
        return (
            "its attention adds a bias or a mask to every pair of query and key, for which the two "
            "unmasked attention calls of SVE have no place"
        )
    if seen:
        return "its blocks attend within windows, or to other tokens than their own, alone"
    return ""
