"""Salient objects: IoU of a linear probe, object against background, on frozen patch features.

IoU of a picture = TP / (TP + FP + FN) of its object's pixels; the score is the mean over pictures
"""

from sparsight.errors import LabelsError
from sparsight.tasks import layouts, mask_survey
from sparsight.tasks.base import Arms, Outcome, Request
from sparsight.tasks.dense_probe import constant, fit_probes, judge
from sparsight.tasks.labels import LabelledFiles
from sparsight.tasks.masks import object_masks
from sparsight.tasks.overlap import overlap
from sparsight.tasks.paired import compare, mean_of, worst_images
from sparsight.tasks.probe import RECIPE
from sparsight.tasks.table import read_table

USES = frozenset({"max_train_images", "own_probe", "table"})
CLASSES, OBJECT = 2, 1
METRIC = "IoU: mean over pictures of TP / (TP + FP + FN) of the object's pixels"


def run(arms: Arms, request: Request) -> Outcome:
    """Fit the probe on one split of pictures with masks and judge both arms on the other."""
    train, val, seen = surveyed(request)
    fitting = fit_probes(arms, train, request, CLASSES)
    (dense, sparse), places, skipped = judge(arms, fitting.probes, val, request, CLASSES)

    some = dense.truth[:, OBJECT] > 0  # IoU with nothing is not defined
    ious = [(arm.hits[:, OBJECT] / arm.union[:, OBJECT])[some] for arm in (dense, sparse)]
    files = [val.pairs[place].image for place, has in zip(places, some.tolist(), strict=True) if has]
    if not files:
        raise LabelsError(f"every mask in {request.data} whose picture can be read is empty")
    empty = [
        val.pairs[place].labels for place, has in zip(places, some.tolist(), strict=True) if not has
    ]
    return Outcome(
        metric=METRIC,
        scores=[compare("IoU", mean_of(ious[0]), mean_of(ious[1]), len(files), request.seed)],
        images=len(files),
        worst=worst_images([request.name_of(f) for f in files], ious[0], ious[1], request.worst),
        recipe=RECIPE
        | {"training_images": fitting.images, "training_patches": fitting.patches, "worst": "by IoU"},
        skipped=[*fitting.skipped, *skipped, *(f"{path} is an empty mask" for path in empty)],
        passed=[request.name_of(val.pairs[place].image) for place in places],
        notes=[
            *mask_survey.notes(seen),
            *overlap([p.image for p in train.pairs], files),
            *constant((dense, sparse), ["background", "object"]),
        ],
        shares={part.split: part.shares() for part in seen},
    )


def surveyed(request: Request) -> tuple[LabelledFiles, LabelledFiles, list[mask_survey.Masks]]:
    """Pictures with masks to learn from and to judge by, and what was seen in the masks."""
    table = read_table(request.table) if request.table else None
    train, val = (
        LabelledFiles(pairs, request, object_masks(table)) for pairs in layouts.salient(request.data)
    )
    seen = [
        mask_survey.look(train, request.max_train_images, "train", table),
        mask_survey.look(val, request.max_images, "val", table),
    ]
    for part in seen:
        mask_survey.something_to_tell(part)
    return train, val, seen
