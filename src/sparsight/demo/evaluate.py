"""How good are features for a task: segmentation, and image labels where there are any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.demo import encoder
from sparsight.demo.scenes import Scene, SceneSet
from sparsight.images import to_tensor
from sparsight.modes import evaluating
from sparsight.ops import fidelity
from sparsight.stages.arm import Arm
from sparsight.stages.progress import track
from sparsight.tasks.dense_probe import Judged, judged
from sparsight.tasks.metrics import multiclass_stat_scores
from sparsight.tasks.paired import compare
from sparsight.tasks.segmentation import miou_of


class Sample(NamedTuple):
    """One picture with its truth."""

    picture: Tensor  # (3, height, width), normalised
    labels: Tensor  # (height, width), whole numbers
    kinds: Tensor | None = None  # (classes of the classification head,), which are there


@dataclass(frozen=True)
class ScenePictures:
    """Scenes as the stages take images: normalised tensors, without their labels."""

    scenes: SceneSet
    mean: tuple[float, ...] = encoder.MEAN
    std: tuple[float, ...] = encoder.STD

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Tensor:
        return picture_of(self.scenes[index])


@dataclass(frozen=True)
class SceneSamples:
    """Scenes with their truth."""

    scenes: SceneSet

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Sample:
        scene = self.scenes[index]
        labels = torch.from_numpy(scene.labels).long()
        return Sample(picture_of(scene), labels, torch.from_numpy(scene.kinds))


def picture_of(scene: Scene) -> Tensor:
    """The normalised (3, height, width) picture of a scene."""
    return to_tensor(scene.image, encoder.MEAN, encoder.STD)


class Score:
    """One model's results on pictures."""

    def __init__(self, classes: int, void: int | None) -> None:
        self.classes, self.void = classes, void
        self.pixels: list[Tensor] = []
        self.right: list[float] = []
        self.errors: list[float] = []
        self.cosines: list[float] = []

    def add(self, arm: Arm, sample: Sample, dense: Tensor | None) -> Tensor:
        """Take in one picture; returns its features.  `dense`: the dense model's (None: these are they).

        An arm of a lower resolution has its labels computed there, and its label map enlarged: its head
        has cells finer than a patch, which would not fit enlarged features.
        """
        model: Any = arm.model
        height, width = sample.labels.shape
        own = arm(sample.picture[None])
        cells = encoder.label_map(model, own.tokens, own.size)
        pixels = F.interpolate(cells, (height, width), mode="bilinear").argmax(1)
        self.pixels.append(
            multiclass_stat_scores(
                pixels, sample.labels[None], self.classes, average=None,
                multidim_average="samplewise", ignore_index=self.void,
            )[0]
        )  # fmt: skip
        if sample.kinds is not None:
            guessed = model.forward_head(own.tokens)[0] > 0
            self.right.append((guessed == sample.kinds).float().mean().item())
        features = arm.enlarged(own, (height, width))
        self.errors.append(
            fidelity.relative_error(features, features if dense is None else dense).item()
        )
        self.cosines.append(fidelity.cosine(features, features if dense is None else dense).item())
        return features

    def counts(self, counted: slice) -> Judged:
        """Pixels of the counted classes in every picture."""
        return judged(torch.stack(self.pixels)[:, counted])

    def row(self, counted: slice, dense: "Score") -> dict[str, float | None]:
        """Mean IoU over the counted classes, right image labels, and how far the features moved.

        `miou_low` and `miou_high` are the interval of the difference from the dense model's mIoU.
        """
        ours, its = miou_of(self.counts(counted)), miou_of(dense.counts(counted))
        found = compare("mIoU", its, ours, len(self.pixels))
        row: dict[str, float | None] = {
            "miou": found["sparse"], "miou_low": found["low"], "miou_high": found["high"],
        }  # fmt: skip
        if self.right:
            row["accuracy"] = sum(self.right) / len(self.right)
        return row | {
            "relative_error": sum(self.errors) / len(self.errors),
            "relative_error_worst": max(self.errors),
            "cosine": sum(self.cosines) / len(self.cosines),
            "cosine_worst": min(self.cosines),
        }


def evaluate(
    arms: Mapping[str, Arm],
    samples: Sequence[Sample] | SceneSamples,
    classes: int = encoder.CLASSES,
    counted: slice = slice(1, None),
    void: int | None = None,
) -> dict[str, dict[str, float | None]]:
    """A row for every arm on every sample, compared with the first arm, the dense one.

    `counted` are the classes of the mean (without the scenes' background), `void` a label to ignore.
    """
    scores = {name: Score(classes, void) for name in arms}
    for index in track(range(len(samples)), "Evaluating", len(samples)):
        sample, dense = samples[index], None
        for name, arm in arms.items():
            with evaluating(arm.model):
                features = scores[name].add(arm, sample, dense)
                dense = features if dense is None else dense
    first = next(iter(scores.values()))
    return {name: score.row(counted, first) for name, score in scores.items()}
