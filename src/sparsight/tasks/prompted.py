"""Promptable segmentation with SAM 2: IoU of each object, from five points inside it.

The points are drawn evenly over the object's pixels, by a seed, and are the same for both arms.  A mask
with a palette has one object for each entry but the first (and 255, which is no object), or a table says
which number or colour is which object; any other mask has one, its white part.
Written for transformers' `Sam2Model`, whose prompt encoder and mask decoder stay as they are.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsight.errors import ImagesError, LabelsError, UnsupportedModelError
from sparsight.families.base import is_instance
from sparsight.images import Reader
from sparsight.stages.progress import track
from sparsight.tasks import mask_survey
from sparsight.tasks.base import Arms, Outcome, Request
from sparsight.tasks.labels import LabelledFiles
from sparsight.tasks.layouts import mask_pairs
from sparsight.tasks.masks import objects
from sparsight.tasks.metrics import binary_jaccard_index
from sparsight.tasks.paired import Statistic, compare, worst_images
from sparsight.tasks.table import read_table

USES = frozenset({"table"})
POINTS, INSIDE = 5, 1
SAM2 = "transformers.models.sam2.modeling_sam2.Sam2Model"
METRIC = "IoU: mean over objects of TP / (TP + FP + FN) of the object's pixels at its mask's size"


def run(arms: Arms, request: Request) -> Outcome:
    """Prompt both arms with the same points for every object of every picture."""
    _check(arms.models[0], request.resolution)
    table = read_table(request.table) if request.table else None
    samples = LabelledFiles(mask_pairs(request.data), request, objects(table))
    seen_masks = mask_survey.look(samples, request.max_images, "val", table)
    count, reader = min(request.max_images or len(samples), len(samples)), Reader(samples)
    sums: tuple[list[Tensor], list[Tensor]] = ([], [])
    numbers: list[int] = []
    places: list[int] = []
    empty: list[str] = []
    for place, sample in track(reader.placed(count), "Prompting", count):
        found = [number for number in sample.labels.unique().tolist() if number > 0]
        if not found:
            empty.append(f"{samples.pairs[place].labels} is an empty mask")
            continue
        masks = torch.stack([sample.labels == number for number in found])
        points = torch.from_numpy(
            np.stack([draw_points(m.numpy(), (request.seed, place, k)) for k, m in enumerate(masks)])
        )
        for seen, model in zip(sums, arms.models, strict=True):
            seen.append(ious(predict(model, sample.picture, points, masks), masks).sum())
        numbers.append(len(found))
        places.append(place)
    if not places:
        raise LabelsError(f"every mask in {request.data} whose picture can be read is empty")
    objects_in = torch.tensor(numbers, dtype=torch.float64, device="cpu")
    dense, sparse = (torch.stack(seen).double() for seen in sums)
    files = [request.name_of(samples.pairs[place].image) for place in places]
    return Outcome(
        metric=METRIC,
        scores=[
            compare("IoU", _mean(dense, objects_in), _mean(sparse, objects_in), len(files), request.seed)
        ],
        images=len(files),
        worst=worst_images(files, dense / objects_in, sparse / objects_in, request.worst),
        recipe={
            "points": POINTS,
            "objects": int(sum(numbers)),
            "worst": "by the mean IoU of the objects",
        },
        skipped=[*reader.skipped.values(), *empty],
        passed=files,
        notes=mask_survey.notes([seen_masks]),
        shares={"val": seen_masks.shares()},
    )


def draw_points(mask: NDArray, seed: tuple[int, ...]) -> NDArray:
    """Centres (POINTS, 2) of pixels of `mask` (height, width) as x, y in shares of width and height."""
    rows, columns = np.nonzero(mask)
    chosen = np.random.default_rng(seed).integers(len(rows), size=POINTS)
    height, width = mask.shape
    return np.stack([(columns[chosen] + 0.5) / width, (rows[chosen] + 0.5) / height], 1)


def predict(model: nn.Module, picture: Tensor, points: Tensor, masks: Tensor) -> Tensor:
    """One mask for each object, (objects, height, width) like `masks`, from `points` (objects, 5, 2)."""
    like = next(model.parameters())
    height, width = picture.shape[1:]
    # The prompt encoder adds half a pixel; in half precision places would be rounded by several.
    places = (points * points.new_tensor([width, height]) - 0.5).to(like.device, torch.float32)
    found = model(
        pixel_values=picture[None].to(like.device, like.dtype), input_points=places[None],
        input_labels=torch.full((1, *points.shape[:2]), INSIDE, device=like.device),
        multimask_output=False,
    )  # fmt: skip
    logits = found.pred_masks[0, :, :1].float()
    return (F.interpolate(logits, masks.shape[1:], mode="bilinear")[:, 0] > 0).cpu()


def ious(found: Tensor, masks: Tensor) -> Tensor:
    """IoU (objects,) of boolean masks (objects, height, width)."""
    pairs = zip(found, masks, strict=True)
    return torch.stack([binary_jaccard_index(one.long(), true.long()) for one, true in pairs])


def _mean(sums: Tensor, numbers: Tensor) -> Statistic:
    """The mean over objects, for draws of images."""
    return lambda weights: (weights @ sums) / (weights @ numbers)


def _check(model: Any, resolution: tuple[int, int]) -> None:
    if not is_instance(model, SAM2):
        raise UnsupportedModelError(
            f"{type(model).__name__} takes no prompts: this task needs a transformers Sam2Model"
        )
    size = model.config.prompt_encoder_config.image_size
    own = (size, size) if isinstance(size, int) else tuple(size)
    if own != resolution:
        raise ImagesError(
            f"this Sam2Model is configured for pictures of {own[0]}x{own[1]}, not of "
            f"{resolution[0]}x{resolution[1]}: give that resolution, or change image_size and "
            "backbone_feature_sizes in its configuration"
        )
