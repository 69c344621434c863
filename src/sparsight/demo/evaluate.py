"""How good are features for a task: segmentation and image labels of the scenes, per model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.demo import encoder
from sparsight.demo.scenes import Scene, SceneSet
from sparsight.images import to_tensor
from sparsight.ops import fidelity
from sparsight.stages.observe import evaluating
from sparsight.stages.progress import track

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class ScenePictures:
    """Scenes as the stages take images: normalised tensors, without their labels."""

    scenes: SceneSet

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Tensor:
        return picture_of(self.scenes[index])


def picture_of(scene: Scene) -> Tensor:
    """The normalised (3, height, width) picture of a scene."""
    return to_tensor(scene.image, encoder.MEAN, encoder.STD)


class Score:
    """Sums of one model's results over scenes."""

    def __init__(self) -> None:
        from torchmetrics.classification import MulticlassJaccardIndex

        self.iou: MulticlassJaccardIndex = MulticlassJaccardIndex(encoder.CLASSES, average=None)
        self.right: list[float] = []
        self.errors: list[float] = []
        self.cosines: list[float] = []

    def add(self, model: Any, features: Tensor, dense: Tensor, scene: Scene) -> None:
        """Take in one scene."""
        size = scene.labels.shape
        cells = encoder.label_map(model, features, size)
        pixels = F.interpolate(cells, size, mode="bilinear").argmax(1)
        self.iou.update(pixels[0], torch.from_numpy(scene.labels).long())
        guessed = model.forward_head(features)[0] > 0
        self.right.append((guessed == torch.from_numpy(scene.kinds)).float().mean().item())
        self.errors.append(fidelity.relative_error(features, dense).item())
        self.cosines.append(fidelity.cosine(features, dense).item())

    def row(self) -> dict[str, Any]:
        """Foreground mIoU, accuracy of the image labels, and how far the features moved."""
        return {
            "miou": self.iou.compute()[1:].mean().item(),
            "accuracy": sum(self.right) / len(self.right),
            "relative_error": sum(self.errors) / len(self.errors),
            "relative_error_worst": max(self.errors),
            "cosine": sum(self.cosines) / len(self.cosines),
            "cosine_worst": min(self.cosines),
        }


def evaluate(models: Mapping[str, Any], scenes: SceneSet) -> dict[str, dict[str, Any]]:
    """Every model on every scene; the first model is the dense one the others are compared with."""
    scores = {name: Score() for name in models}
    for index in track(range(len(scenes)), "Evaluating", len(scenes)):
        scene = scenes[index]
        picture, dense = picture_of(scene)[None], None
        for name, model in models.items():
            with evaluating(model):
                features = model.forward_features(picture)
                dense = features if dense is None else dense
                scores[name].add(model, features, dense, scene)
    return {name: score.row() for name, score in scores.items()}
