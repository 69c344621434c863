"""Semantic segmentation: mean IoU of a linear probe on frozen patch features.

    IoU of a class = TP / (TP + FP + FN) over the pixels of all pictures; mIoU = mean over classes

A class without a labelled pixel in the pictures judged is left out of the mean, in both arms alike.
"""

from typing import NamedTuple

from torch import Tensor

from sparsight.tasks import layouts, survey, suspicion
from sparsight.tasks.base import Arms, Outcome, Request
from sparsight.tasks.dense_probe import Judged, constant, fit_probes, judge
from sparsight.tasks.labels import LabelledFiles
from sparsight.tasks.numbers import class_numbers
from sparsight.tasks.overlap import overlap
from sparsight.tasks.paired import Statistic, compare, worst_images
from sparsight.tasks.probe import RECIPE
from sparsight.tasks.table import VOID, read_table

USES = frozenset({"max_train_images", "own_probe", "layout", "classes", "void", "table"})
METRIC = (
    "mIoU: mean over the classes of TP / (TP + FP + FN) of all pixels, void ignored; "
    "pixel accuracy: share of the labelled pixels whose class was found"
)


class Surveyed(NamedTuple):
    """A data set whose labels have been looked at."""

    train: LabelledFiles
    val: LabelledFiles
    seen: list[survey.Seen]  # of both
    layout: str
    classes: int
    void: int


def surveyed(request: Request) -> Surveyed:
    """The pictures to learn from and to judge by; refused if their labels are no classes."""
    name, layout = layouts.segmentation(request.data, request.layout)
    pairs = [layout.pairs(request.data, split) for split in (layout.train, layout.val)]
    given = read_table(request.table) if request.table else None
    tables = [given or layout.table(part) for part in pairs]
    classes = request.classes or (given.classes if given else layout.classes)
    # A table says itself what is void, and its class 0 may be a layout's usual void.
    usual = VOID if given else layout.void
    void = usual if request.void is None else request.void
    train, val = (
        LabelledFiles(part, request, class_numbers(classes, void, table))
        for part, table in zip(pairs, tables, strict=True)
    )
    seen = [
        survey.look(train, request.max_train_images, layout.train, tables[0]),
        survey.look(val, request.max_images, layout.val, tables[1]),
    ]
    suspicion.check(seen, classes, void)
    return Surveyed(train, val, seen, name, classes, void)


def run(arms: Arms, request: Request) -> Outcome:
    """Fit the probe on the training split and judge both arms on the validation split."""
    train, val, seen, name, classes, void = surveyed(request)
    fitting = fit_probes(arms, train, request, classes)
    (dense, sparse), places, missing = judge(arms, fitting.probes, val, request, classes)

    images, seed = len(places), request.seed
    files = [request.name_of(val.pairs[place].image) for place in places]
    present = [k for k in range(classes) if dense.truth[:, k].sum() > 0]
    return Outcome(
        metric=METRIC,
        scores=[
            compare("mIoU", miou_of(dense), miou_of(sparse), images, seed),
            compare("pixel accuracy", accuracy_of(dense), accuracy_of(sparse), images, seed),
        ],
        details=[
            compare("IoU", iou_of(dense, k), iou_of(sparse, k), images, seed, of=f"class {k}")
            for k in present
        ],
        images=images,
        worst=worst_images(files, iou(dense)[1], iou(sparse)[1], request.worst),
        recipe=RECIPE
        | {
            "layout": name, "classes": classes, "void": void, "training_images": fitting.images,
            "training_patches": fitting.patches, "worst": "by the mIoU of the image's own classes",
        },
        skipped=[*fitting.skipped, *missing],
        passed=files,
        notes=[
            *suspicion.notes(seen, void),
            *overlap([p.image for p in train.pairs], [val.pairs[place].image for place in places]),
            *_notes(fitting.shares, present, classes, void),
            *constant((dense, sparse), [f"class {k}" for k in range(classes)]),
        ],
        shares={part.split: part.shares(void) for part in seen},
    )  # fmt: skip


def miou_of(judged: Judged) -> Statistic:
    """mIoU of any draw of images, over the classes that have a pixel in the draw."""
    return lambda weights: iou(Judged(*(weights @ part for part in judged)))[1]


def iou_of(judged: Judged, k: int) -> Statistic:
    """IoU of class `k`; NaN in a draw without a pixel of it."""
    return lambda weights: iou(Judged(*(weights @ part[:, k : k + 1] for part in judged)))[1]


def accuracy_of(judged: Judged) -> Statistic:
    """Share of the labelled pixels whose class was found."""
    hits, truth = judged.hits.sum(1), judged.truth.sum(1)
    return lambda weights: (weights @ hits) / (weights @ truth)


def iou(judged: Judged) -> tuple[Tensor, Tensor]:
    """IoU of each class, NaN where it has no pixel, and their mean."""
    each = (judged.hits / judged.union).masked_fill(judged.truth == 0, float("nan"))
    return each, each.nanmean(1)


def _notes(shares: Tensor, present: list[int], classes: int, void: int) -> list[str]:
    """What the mean leaves out, and what the probe could not learn."""
    named = set(range(classes)) - {void}
    absent = sorted(named - set(present))
    unlearnt = [k for k in present if shares[k] == 0]
    notes = []
    if absent:
        notes.append(f"left out of the mean, having no pixel in the pictures judged: classes {absent}")
    if unlearnt:
        notes.append(f"without a pixel in the training pictures, so never found: classes {unlearnt}")
    return notes
