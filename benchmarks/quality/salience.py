"""Why errors are weighted by salience: what a plain error ranks and learns, against what the task says.

`python -m benchmarks.quality.salience` writes benchmarks/results/salience-cpu.json.  The task is judged
on pixels of objects and of background apart: the divergence of the class probabilities from the dense
model's, which shows small harm that a mean IoU over a few scenes does not.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import sparsight
from sparsight.attach import as_plan
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures, SceneSamples
from sparsight.demo.run import NINE
from sparsight.demo.scenes import SceneSet
from sparsight.files import write_json
from sparsight.modes import evaluating
from sparsight.ops import fidelity
from sparsight.stages import distil, timing
from sparsight.stages.distil import Distillation

# Apart from the scenes of training, calibration and evaluation.
RANKING_SEED, LEARNING_SEED, JUDGING_SEED = 61_000, 50_000, 60_000
POWERS = (0, 2, 4, 6, 8)
RESULT = Path(__file__).parents[1] / "results" / "salience-cpu.json"
FRAGILE = (3, 4)  # what the ranking below finds the most harmful to sparsify
SETTING = NINE.at_any_size()


def judge(arms: dict[str, Any], scenes: SceneSet) -> dict[str, dict[str, float]]:
    """For each model but the first (the dense one), divergence by kind of pixel and errors by power."""
    samples, dense_model = SceneSamples(scenes), next(iter(arms.values()))
    sums: dict[str, dict[str, float]] = {}
    for sample in (samples[i] for i in range(len(samples))):
        truth = sample.labels[1::2, 1::2] > 0
        with evaluating(dense_model):
            dense = dense_model.forward_features(sample.picture[None])
        wanted = _log_probabilities(dense_model, dense, sample.labels)
        for name, model in list(arms.items())[1:]:
            with evaluating(model):
                features = model.forward_features(sample.picture[None])
            got = _log_probabilities(model, features, sample.labels)
            kl = F.kl_div(got, wanted, log_target=True, reduction="none").sum(-1)
            row = {"kl_objects": kl[truth].mean().item(), "kl_background": kl[~truth].mean().item()}
            row |= {f"error_{p}": _error(features, dense, p) for p in POWERS}
            total = sums.setdefault(name, dict.fromkeys(row, 0.0))
            for key, value in row.items():
                total[key] += value / len(samples)
    return sums


def _log_probabilities(model: Any, features: Tensor, labels: Tensor) -> Tensor:
    cells = encoder.label_map(model, features, tuple(labels.shape))
    return cells[0].permute(1, 2, 0).log_softmax(-1)


def _error(features: Tensor, dense: Tensor, power: int) -> float:
    weights = fidelity.salience(dense, prefix=1, power=power)
    return fidelity.relative_error(features, dense, weights).item()


def correlation(one: list[float], other: list[float]) -> float:
    """Spearman's: that of the ranks."""
    ranks = [torch.tensor(x).argsort().argsort().float() for x in (one, other)]
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


def distilled(weights_of: Callable[..., Tensor], layers: tuple[int, ...], steps: int) -> Any:
    """The encoder adapted with tokens weighted by `weights_of`, at 512 px to be quick."""
    distil.salience = weights_of
    plan = as_plan(SETTING.model_copy(update={"layers": layers}))
    pictures = ScenePictures(SceneSet(256, (512, 512), LEARNING_SEED))
    model = encoder.load()
    adapted, _ = distil.distil(model, plan, pictures, Distillation(steps=steps))
    return sparsight.apply(model, adapted)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--ranking-scenes", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    model = encoder.load()
    depth = len(model.blocks)

    single = {
        str(n): sparsight.apply(copy.deepcopy(model), SETTING.model_copy(update={"layers": (n,)}))
        for n in range(depth)
    }
    found = judge(
        {"dense": model} | single, SceneSet(arguments.ranking_scenes, (1024, 1024), RANKING_SEED)
    )
    harm = [found[str(n)]["kl_objects"] for n in range(depth)]
    ranking = {
        str(p): correlation([found[str(n)][f"error_{p}"] for n in range(depth)], harm) for p in POWERS
    }
    print(ranking, flush=True)

    layers = tuple(n for n in range(depth) if n not in FRAGILE)
    undistilled = sparsight.apply(copy.deepcopy(model), SETTING.model_copy(update={"layers": layers}))
    arms = {
        "dense": model,
        "undistilled": undistilled,
        "distilled, tokens alike": distilled(
            lambda dense, prefix: torch.ones(dense.shape[:2]), layers, arguments.steps
        ),
        "distilled, by salience": distilled(fidelity.salience, layers, arguments.steps),
    }
    learning = judge(arms, SceneSet(arguments.scenes, (512, 512), JUDGING_SEED))
    result = {
        "protocol": {
            "machine": timing.machine(torch.device("cpu")),
            "versions": timing.versions(),
            "dtype": "float32",
            "method": SETTING.model_dump(mode="json"),
            "command": "python -m benchmarks.quality.salience",
            "ranking": {
                "scenes": arguments.ranking_scenes, "resolution": "1024x1024",
                "first_seed": RANKING_SEED,
            },
            "learning": {
                "scenes": arguments.scenes, "resolution": "512x512", "first_seed": JUDGING_SEED,
                "steps": arguments.steps, "layers": list(layers),
            },
        },
        "layers": [{"layer": n} | found[str(n)] for n in range(depth)],
        "correlation": ranking,
        "learning": [{"name": name} | row for name, row in learning.items()],
    }  # fmt: skip
    write_json(arguments.out, result)
    for row in result["learning"]:
        print(row)
