"""Which tokens become one, and their mean: density peaks on the grid, and mutual pairs.

All tokens are read normalised, distances are mean squares over channels, and nothing is N x N in memory.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROWS_AT_ONCE = 256  # of all tokens against all others


class Groups(NamedTuple):
    """Of m tokens, which k go on, and into which of them each goes."""

    rows: Int[Tensor, "b k"]
    group: Int[Tensor, "b m"]


def means(
    x: Float[Tensor, "b m c"], group: Int[Tensor, "b m"], count: int, weight: Float[Tensor, "b m"]
) -> tuple[Float[Tensor, "b k c"], Float[Tensor, "b k"]]:
    """The weighted mean of each of `count` groups, summed in float32, and its weight; 0: it has none."""
    b, m, c = x.shape
    flat = (group + torch.arange(b, device=x.device)[:, None] * count).flatten()
    weight = weight.float()
    rows = (x.float() * weight[:, :, None]).reshape(b * m, c)
    summed = rows.new_zeros(b * count, c).index_add(0, flat, rows)
    total = rows.new_zeros(b * count).index_add(0, flat, weight.flatten())
    mean = (summed / total.clamp_min(1e-6)[:, None]).to(x.dtype)
    return mean.view(b, count, c), total.view(b, count)


class Peaks(NamedTuple):
    """Of every patch of a grid, by the k of its neighbours within the window; no neighbour: inf."""

    score: Float[Tensor, "b p"]  # rho x delta
    distance: Float[Tensor, "b p k"]
    neighbour: Int[Tensor, "p k"]  # the place of each, and its own where there is none


def density_peaks(
    normal: Float[Tensor, "b p c"], grid: tuple[int, int], radius: int, nearest: int
) -> Peaks:
    """Density peaks (DPC-kNN) among the neighbours within `radius` rows and columns.

    rho   = exp(-mean of the `nearest` smallest distances)
    delta = the distance to the nearest neighbour of higher rho; of a peak, the largest of the picture
    """
    rows, columns = grid
    found = normal.float().unflatten(1, grid)
    places = torch.arange(rows * columns, device=normal.device).view(grid)
    reach = range(-radius, radius + 1)
    steps = [(y, x) for y in reach for x in reach if (y, x) != (0, 0)]
    distance = found.new_full((normal.shape[0], rows, columns, len(steps)), torch.inf)
    neighbour = places[:, :, None].repeat(1, 1, len(steps))
    for number, (y, x) in enumerate(steps[: len(steps) // 2]):  # the others are these, seen from there
        here, there = _overlap(rows, y), _overlap(columns, x)
        a, b = (slice(None), here[0], there[0]), (slice(None), here[1], there[1])
        apart = (found[a] - found[b]).square().mean(3)
        for one, other, at in ((a, b, number), (b, a, len(steps) - 1 - number)):
            distance[(*one, at)] = apart
            neighbour[(*one[1:], at)] = places[other[1:]]
    distance, neighbour = distance.flatten(1, 2), neighbour.flatten(0, 1)
    near = distance.topk(min(nearest, len(steps)), dim=2, largest=False).values
    there = near.isfinite()
    rho = (-near.where(there, 0).sum(2) / there.sum(2).clamp_min(1)).exp()
    theirs = rho[:, neighbour]
    higher = (theirs > rho[:, :, None]) | (
        (theirs == rho[:, :, None]) & (neighbour < places.flatten()[:, None])
    )
    delta = distance.where(higher, torch.inf).amin(2)
    largest = distance.where(distance.isfinite(), 0).amax((1, 2), keepdim=True)[:, :, 0]
    return Peaks(rho * delta.where(delta.isfinite(), largest), distance, neighbour)


def _overlap(side: int, step: int) -> tuple[slice, slice]:
    """Where both a token and the one so many steps on are in the grid: of it, and of that one."""
    ends = [max(0, side - max(0, far)) for far in (step, -step)]
    return slice(max(0, -step), ends[0]), slice(max(0, step), ends[1])


def assigned(
    normal: Float[Tensor, "b p c"], peaks: Peaks, centres: Int[Tensor, "b k"]
) -> Int[Tensor, "b p"]:
    """Which of the centres each patch goes to: the nearest in its window, else the nearest of all."""
    b, p, _ = normal.shape
    number = torch.full((b, p), -1, device=normal.device)  # of a centre, among them
    own = torch.arange(centres.shape[1], device=normal.device).expand_as(centres)
    number = number.scatter(1, centres, own)
    theirs = number[:, peaks.neighbour]
    apart, at = peaks.distance.where(theirs >= 0, torch.inf).min(2)
    near = theirs.gather(2, at[:, :, None])[:, :, 0]
    found = near.where(apart.isfinite(), nearest_of(normal, centres))
    return number.where(number >= 0, found)


def nearest_of(normal: Float[Tensor, "b p c"], centres: Int[Tensor, "b k"]) -> Int[Tensor, "b p"]:
    """Which of the centres is nearest to each patch, over the whole picture."""
    normal = normal.float()
    theirs = normal.gather(1, centres[:, :, None].expand(-1, -1, normal.shape[2]))
    half = theirs.square().sum(2)[:, None] / 2
    keys = theirs.transpose(1, 2)
    return torch.cat([(rows @ keys - half).argmax(2) for rows in normal.split(ROWS_AT_ONCE, 1)], 1)


def mutual_pairs(tokens: Float[Tensor, "b p c"], there: Bool[Tensor, "b p"]) -> Int[Tensor, "b p"]:
    """For each of the tokens that are `there`, the one that it and only it is most like; else itself.

    b(i) = argmax over j != i of cos(x_i, x_j); i and j are a pair if b(i) = j and b(j) = i.
    """
    unit = torch.nn.functional.normalize(tokens.float(), dim=2)
    keys, places = unit.transpose(1, 2), torch.arange(tokens.shape[1], device=tokens.device)
    best = []
    for part in places.split(ROWS_AT_ONCE):
        alike = unit[:, part] @ keys
        alike = alike.masked_fill((part[:, None] == places) | ~there[:, None], -torch.inf)
        best.append(alike.argmax(2))
    found = torch.cat(best, 1)
    mutual = (found.gather(1, found) == places) & there
    return found.where(mutual, places)
