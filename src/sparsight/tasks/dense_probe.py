"""Linear probes on patch features, and their label maps at the labels' own size."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.errors import LabelsError
from sparsight.images import Reader
from sparsight.ops.grids import grid_of
from sparsight.stages.progress import track
from sparsight.tasks import probe
from sparsight.tasks.base import Arms, Request, patches_of
from sparsight.tasks.labels import LabelledFiles
from sparsight.tasks.metrics import multiclass_stat_scores
from sparsight.tasks.probe import Probe
from sparsight.tasks.table import VOID

CACHE_BYTES = 1 << 29  # of training features; above it, as many patches of each picture as fit
CLASSES_AT_ONCE = 16  # whose enlarged logits are held at the same time


class Fitting(NamedTuple):
    """The probes of both arms and what they were fitted on."""

    probes: tuple[Probe, Probe]
    shares: Tensor  # (classes,), how many patches' worth of each
    images: int
    patches: int
    skipped: list[str]


def fit_probes(arms: Arms, samples: LabelledFiles, request: Request, classes: int) -> Fitting:
    """A probe on the dense model's features for both arms, or one each if the request asks for it."""
    return fit_each(arms.both() if request.own_probe else (arms.dense,), samples, request, classes)


def fit_each(
    models: tuple[nn.Module, ...], samples: LabelledFiles, request: Request, classes: int
) -> Fitting:
    """A probe on the features of each of one or two models; of one, both probes are the same."""
    count = min(request.max_train_images or len(samples), len(samples))
    reader = Reader(samples)
    features: list[list[Tensor]] = [[] for _ in models]
    targets: list[Tensor] = []
    per_picture = 0
    for place, sample in track(reader.placed(count), "Reading training pictures", count):
        tokens = [patches_of(model, sample.picture) for model in models]
        grid = grid_of(len(tokens[0]), request.resolution)
        shares = patch_shares(sample.labels, grid, classes)
        per_picture = per_picture or CACHE_BYTES // (4 * tokens[0].shape[1] * count * len(models))
        generator = torch.Generator().manual_seed(request.seed + place)
        order = torch.randperm(len(shares), generator=generator, device="cpu")
        chosen = order[shares.sum(1)[order] > 0][: max(1, per_picture)]
        targets.append(shares[chosen])
        for seen, token in zip(features, tokens, strict=True):
            seen.append(token[chosen.to(token.device)])
    shares = torch.cat(targets)
    if not len(shares):
        raise LabelsError("every pixel of the training labels is void")
    rows = shares.to(features[0][0].device)
    fitted = [probe.fit(torch.cat(seen), rows, classes) for seen in features]
    return Fitting(
        (fitted[0], fitted[-1]), shares.sum(0), len(targets), len(shares), list(reader.skipped.values())
    )


class Judged(NamedTuple):
    """Pixels of every class in every picture, (pictures, classes), of one arm."""

    hits: Tensor  # of the class and found
    union: Tensor  # of the class or found
    truth: Tensor  # of the class


def judge(
    arms: Arms, probes: tuple[Probe, Probe], samples: LabelledFiles, request: Request, classes: int
) -> tuple[tuple[Judged, Judged], list[int], list[str]]:
    """Both arms' counts, the places of the pictures they are of, and why others are missing."""
    count = min(request.max_images or len(samples), len(samples))
    reader, places, missing = Reader(samples), list[int](), list[str]()
    counts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for place, sample in track(reader.placed(count), "Judging", count):
        if (sample.labels == VOID).all():
            missing.append(f"{samples.pairs[place].labels} has no labelled pixel")
            continue
        places.append(place)
        for seen, model, fitted in zip(counts, arms.both(), probes, strict=True):
            height, width = sample.labels.shape
            found = label_map(model, fitted, sample.picture, (height, width))
            seen.append(
                multiclass_stat_scores(
                    found[None], sample.labels[None], classes, average=None,
                    multidim_average="samplewise", ignore_index=VOID,
                )[0]
            )  # fmt: skip
    if not places:
        raise LabelsError(f"no picture has a labelled pixel: {missing[0]}")
    dense, sparse = (judged(torch.stack(seen)) for seen in counts)
    return (dense, sparse), places, [*reader.skipped.values(), *missing]


def judged(scores: Tensor) -> Judged:
    """Counts of pictures from torchmetrics' stat scores (pictures, classes, 5)."""
    hits, false_alarms, _, misses, truth = scores.double().unbind(2)
    return Judged(hits, hits + false_alarms + misses, truth)


def constant(both: tuple[Judged, Judged], names: list[str]) -> list[str]:
    """A note for each arm (dense first) that finds one class in every labelled pixel."""
    notes = []
    for arm, counts in zip(("dense", "sparse"), both, strict=True):
        found = (counts.union - counts.truth + counts.hits).sum(0)
        if (found > 0).sum() == 1:
            notes.append(f"the {arm} arm finds {names[int(found.argmax())]} in every pixel")
    return notes


def patch_shares(labels: Tensor, grid: tuple[int, int], classes: int) -> Tensor:
    """Each patch's share of pixels of every class, (rows * columns, classes), from labels (H, W).

    A pixel belongs to the patch that holds its centre; labels of no class (void) count as pixels and
    for nothing, so a row sums to the share of its pixels that have a label.
    """
    (height, width), (rows, columns) = labels.shape, grid
    row = (torch.arange(height, device="cpu") * 2 + 1) * rows // (2 * height)
    column = (torch.arange(width, device="cpu") * 2 + 1) * columns // (2 * width)
    patch = (row[:, None] * columns + column).flatten()
    pixels = torch.bincount(patch, minlength=rows * columns)
    flat = labels.flatten()
    known = (flat >= 0) & (flat < classes)
    counts = torch.bincount(patch[known] * classes + flat[known], minlength=rows * columns * classes)
    return counts.view(-1, classes) / pixels.clamp_min(1)[:, None]


def label_map(model: nn.Module, fitted: Probe, picture: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of each pixel, (height, width) of `size`, by bilinear logits of one picture."""
    logits = fitted(patches_of(model, picture))
    rows, columns = grid_of(len(logits), (picture.shape[1], picture.shape[2]))
    return largest(logits.T.unflatten(1, (rows, columns))[None], size)


def largest(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """argmax over classes of logits (1, k, rows, columns) enlarged to `size`, some classes at a time."""
    best = torch.full(size, -torch.inf, dtype=logits.dtype, device=logits.device)
    labels = torch.zeros(size, dtype=torch.long, device=logits.device)
    for start in range(0, logits.shape[1], CLASSES_AT_ONCE):
        part = F.interpolate(logits[:, start : start + CLASSES_AT_ONCE], size, mode="bilinear")
        value, number = part[0].max(0)
        labels = torch.where(value > best, number + start, labels)
        best = torch.maximum(best, value)
    return labels.cpu()
