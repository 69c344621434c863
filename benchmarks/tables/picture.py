"""Draw docs/pictures/: what the demo's plan does to one scene, token by token.

`python -m benchmarks.tables.picture` runs it (about a minute): a scene that was seen neither in training
nor in calibration, what was done with each of its tokens, and what the segmentation head makes of
both models.  No figure is written into the pictures: those stand beside them, from benchmarks/results/.
"""

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import sparsight
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures
from sparsight.demo.run import BEST, CALIBRATION_SCENES, CALIBRATION_SEED
from sparsight.demo.scenes import KINDS, SceneSet
from sparsight.images import Held
from sparsight.report.pictures import coloured, masked
from sparsight.stages.look import look

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
SEED = 40_123  # a scene of no other use
SIZE = encoder.IMAGE_SIZE
LAYER = 1  # whose attention is shown
DPI, COLOURS = 100, 256  # a few hundred kB each


def labelled(model: Any, picture: torch.Tensor) -> np.ndarray:
    """The class of every cell, as the segmentation head has it."""
    with torch.inference_mode():
        found = encoder.label_map(model, model.forward_features(picture[None]), SIZE)
    return found.argmax(1)[0].numpy()


def panels() -> dict[str, list[tuple[str, Any]]]:
    """Captions and images of each picture."""
    model = encoder.load()
    scenes = Held(ScenePictures(SceneSet(CALIBRATION_SCENES, SIZE, CALIBRATION_SEED)))
    plan = sparsight.optimize(model, scenes, BEST, reuse_overlap=None, max_images=CALIBRATION_SCENES)
    sparse = sparsight.apply(copy.deepcopy(model), plan)
    one = SceneSet(1, SIZE, SEED)
    picture, base = ScenePictures(one)[0], Image.fromarray(one[0].image)
    maps = {
        name: values.float().numpy()
        for name, values in next(look(model, sparse, ScenePictures(one), [0], [LAYER])).maps.items()
    }
    stays = masked(base, (maps["left"] == 0).astype(np.float32))
    return {
        "scene": [
            ("A picture it has never seen", base),
            (f"Bright: goes through all {encoder.DEPTH} layers", stays),
            ("What the dense model finds", labelled(model, picture)),
            ("What the sparse model finds", labelled(sparse, picture)),
        ],
        "layers": [
            (
                f"Attention each place receives, layer {LAYER}",
                coloured(maps[f"layer {LAYER} exact"], SIZE),
            ),
            ("The score the sparse layer ranks by", coloured(maps[f"layer {LAYER} predicted"], SIZE)),
            ("SVE: bright places see all", masked(base, maps[f"layer {LAYER} kept"] / 2)),
            ("Early exit: dark ones have left", stays),
        ],
    }


def drawn(found: list[tuple[str, Any]], path: Path) -> None:
    """Images in a row; label maps have the colours of the kinds, and nothing where there is none."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.3), layout="constrained", facecolor="white")
    for axes, (caption, image) in zip(figure.subplots(1, len(found)), found, strict=True):
        if isinstance(image, Image.Image):
            axes.imshow(image.resize((420, 420), Image.Resampling.LANCZOS))
        else:
            shown = {"cmap": colormaps["tab10"], "vmin": 1, "vmax": len(KINDS)}
            axes.imshow(np.ma.masked_equal(image, 0), interpolation="nearest", **shown)
        axes.set_title(caption, fontsize=10)
        axes.set(xticks=[], yticks=[])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    few = Image.open(buffer).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    FOLDER.mkdir(exist_ok=True)
    for name, found in panels().items():
        drawn(found, FOLDER / f"{name}.png")
