"""How good the stages of the small Swin are: the scenes' mIoU, and which windows a score would keep."""

from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.swin import model as swin
from torch import Tensor
from torchmetrics.functional.classification import multiclass_stat_scores

from sparsight.completions.linear import normalised
from sparsight.demo.encoder import CLASSES
from sparsight.demo.evaluate import SceneSamples
from sparsight.demo.scenes import SceneSet
from sparsight.methods.sparsevit.config import dropped_count
from sparsight.ops import fidelity
from sparsight.ops.windows import in_windows, rank_windows, window_strengths, window_table
from sparsight.scores import SCORES
from sparsight.scores.view import View
from sparsight.tasks.dense_probe import judged
from sparsight.tasks.paired import compare
from sparsight.tasks.segmentation import miou_of


@torch.inference_mode()
def quality(models: dict[str, Any], scenes: SceneSet) -> dict[str, dict[str, float]]:
    """Mean IoU over the objects' classes, and how far the stages' outputs moved, of each model."""
    samples = SceneSamples(scenes)
    pixels: dict[str, list[Tensor]] = {name: [] for name in models}
    errors: dict[str, list[float]] = {name: [] for name in models}
    for sample in (samples[i] for i in range(len(samples))):
        dense: list[Tensor] = []
        for name, model in models.items():
            stages = swin.stages_of(model, sample.picture[None])
            dense = dense or stages
            cells = F.interpolate(model.segmentation(stages), sample.labels.shape, mode="bilinear")
            pixels[name].append(
                multiclass_stat_scores(
                    cells.argmax(1), sample.labels[None], CLASSES, average=None,
                    multidim_average="samplewise",
                )[0]
            )  # fmt: skip
            moved = [
                fidelity.relative_error(got.flatten(1, 2), its.flatten(1, 2)).item()
                for got, its in zip(stages, dense, strict=True)
            ]
            errors[name].append(sum(moved) / len(moved))
    found = {name: judged(torch.stack(counts)[:, 1:]) for name, counts in pixels.items()}
    its, rows = miou_of(found["dense"]), {}
    for name, counts in found.items():
        difference = compare("mIoU", its, miou_of(counts), len(samples))
        rows[name] = {
            "miou": difference["sparse"], "miou_low": difference["low"], "miou_high": difference["high"],
            "background_as_object": _background_as_object(torch.stack(pixels[name])[:, 0]),
            "relative_error": sum(errors[name]) / len(samples),
            "relative_error_worst": max(errors[name]),
        }  # fmt: skip
    return rows


def _background_as_object(counts: Tensor) -> float:
    """The share of background pixels called an object; from background's stat scores (scenes, 5)."""
    _, _, _, missed, support = counts.sum(0).tolist()
    return missed / support


@torch.inference_mode()
def objects_found(model: Any, scenes: SceneSet) -> dict[str, list[float]]:
    """By score and stage, the share of objects' pixels in the strongest windows, at 60 % sparsity."""
    samples, names = SceneSamples(scenes), ("magnitude", "standout")
    found = {name: torch.zeros(len(swin.DEPTHS)) for name in names}
    for sample in (samples[i] for i in range(len(samples))):
        objects = (sample.labels > 0).float()[None]
        x = model.patch_embed(sample.picture[None])
        for number, stage in enumerate(model.layers):
            x = stage.downsample(x)
            side, rows = x.shape[1], x.flatten(1, 2)
            table = window_table((side, side), (swin.WINDOW,) * 2, (0, 0), rolls_first=True)
            shares = F.adaptive_avg_pool2d(objects, side).flatten(1)
            for name in names:
                score = SCORES[name](View(rows, normalised(rows), 0))
                order = rank_windows(window_strengths(score, table))[0]
                kept = order[: len(order) - dropped_count(len(order), 0.6)]
                found[name][number] += in_windows(shares, table)[0, kept].sum() / shares.sum()
            x = stage.blocks(x)
    return {name: (shares / len(samples)).tolist() for name, shares in found.items()}
