"""SparseViT on the small Swin at 1024 px: speed and quality of every setting, plain and adapted.

`python benchmarks/swin/run.py` writes benchmarks/results/swin-cpu.json.  The dense model's attention is
fused.  Latency is of the whole model with its head, the arms in turn on one scene.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import model as swin
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_stat_scores

import sparsight
from sparsight.demo.encoder import CLASSES
from sparsight.demo.evaluate import SceneSamples
from sparsight.demo.scenes import SceneSet
from sparsight.files import write_json
from sparsight.methods.sparsevit.config import dropped_count
from sparsight.methods.sparsevit.score import magnitude, rank_windows
from sparsight.ops import fidelity
from sparsight.ops.windows import in_windows, window_table
from sparsight.stages import timing
from sparsight.tasks.dense_probe import judged
from sparsight.tasks.paired import compare
from sparsight.tasks.segmentation import miou_of

STAGE_SCENES = 6  # enough for differences as large as those between stages
SIZE_PX, FIRST_SEED = 1024, 20_000  # training and adaptation have other seeds
SPARSITIES: dict[str, Any] = {
    "40 %": 0.4,
    "60 %": 0.6,
    # The published pattern: stage 1 hard, stage 3 more and more, never stages 2 and 4.
    "70, 0, 20-40-50, 0 %": ((0.7,), (0.0,), (0.2, 0.4, 0.5), (0.0,)),
    "80, 0, 50-70-80, 0 %": ((0.8,), (0.0,), (0.5, 0.7, 0.8), (0.0,)),
}
ADAPTED = {"aligned": "adapted", "unaligned": "adapted-unaligned"}  # name -> folder, if it is there


def logits_of(model: Any, picture: Tensor) -> Tensor:
    """Class logits per cell."""
    return model.segmentation(swin.stages_of(model, picture))


def dropped_share(sparsity: Any) -> float:
    """The share of all windows of all pairs of blocks that is dropped."""
    side = SIZE_PX // swin.PATCH_PX // swin.WINDOW
    dropped = total = 0
    for stage, depth in enumerate(swin.DEPTHS):
        windows = (side // 2**stage) ** 2
        for pair in range(depth // 2):
            total += windows
            figure = sparsity[stage][pair] if isinstance(sparsity, tuple) else sparsity
            dropped += dropped_count(windows, figure)
    return dropped / total


def plans() -> dict[str, sparsight.Plan]:
    """The adapted weights that are there, and none."""
    found = {"no": sparsight.Plan(method=sparsight.SparseViT())}
    for name, folder in ADAPTED.items():
        if (swin.WEIGHTS / folder).is_dir():
            found[name] = sparsight.load(swin.WEIGHTS / folder)
    return found


def arms_of(dense: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Every model with what its row says of it."""
    arms = {"dense": (dense, {"setting": "dense", "trained": "no", "windows_dropped": 0.0})}
    for setting, sparsity in SPARSITIES.items():
        for trained, plan in plans().items():
            changed = plan.with_(method=sparsight.SparseViT(sparsity=sparsity))
            arms[f"{setting}, {trained}"] = (
                sparsight.apply(copy.deepcopy(dense), changed),
                {
                    "setting": setting,
                    "trained": trained,
                    "windows_dropped": dropped_share(sparsity),
                },
            )
    return arms


def weighted(dense: Any) -> dict[str, Any]:
    """Dense models with each of the weights."""
    method = sparsight.SparseViT(sparsity=0.0)
    return {
        trained: sparsight.apply(copy.deepcopy(dense), plan.with_(method=method))
        for trained, plan in plans().items()
    }


def background_as_object(counts: Tensor) -> float:
    """The share of background pixels called an object; from background's stat scores (scenes, 5)."""
    _, _, _, missed, support = counts.sum(0).tolist()
    return missed / support


def by_stage(dense: Any, plan: sparsight.Plan, scenes: int) -> dict[str, dict[str, float]]:
    """Quality of adapted weights with 60 % dropped in one stage alone, and in all but one."""
    pairs = [depth // 2 for depth in swin.DEPTHS]

    def arm(pruned: set[int]) -> Any:
        sparsity = tuple((0.6 * (stage in pruned),) * count for stage, count in enumerate(pairs))
        method = sparsight.SparseViT(sparsity=sparsity)
        return sparsight.apply(copy.deepcopy(dense), plan.with_(method=method))

    every = set(range(len(pairs)))
    chosen = {"none": set(), "all": every}
    chosen |= {f"{stage + 1} alone": {stage} for stage in every}
    chosen |= {f"all but {stage + 1}": every - {stage} for stage in every}
    scores = quality({"dense": dense} | {name: arm(stages) for name, stages in chosen.items()}, scenes)
    return {name: scores[name] for name in chosen}


@torch.inference_mode()
def quality(models: dict[str, Any], scenes: int) -> dict[str, dict[str, float]]:
    """Mean IoU over the objects' classes, and how far the stages' outputs moved, of each model."""
    samples = SceneSamples(SceneSet(scenes, (SIZE_PX, SIZE_PX), FIRST_SEED))
    pixels: dict[str, list[Tensor]] = {name: [] for name in models}
    errors: dict[str, list[float]] = {name: [] for name in models}
    for sample in (samples[i] for i in range(scenes)):
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
    found = {name: judged(torch.stack(rows)[:, 1:]) for name, rows in pixels.items()}
    its = miou_of(found["dense"])
    rows = {}
    for name, counts in found.items():
        difference = compare("mIoU", its, miou_of(counts), scenes)
        rows[name] = {
            "miou": difference["sparse"],
            "miou_low": difference["low"],
            "miou_high": difference["high"],
            "background_as_object": background_as_object(torch.stack(pixels[name])[:, 0]),
            "relative_error": sum(errors[name]) / scenes,
            "relative_error_worst": max(errors[name]),
        }
    return rows


@torch.inference_mode()
def objects_found(model: Any, scenes: int) -> list[float]:
    """For each stage, the share of the objects' pixels in the strongest windows, at 60 % sparsity."""
    samples = SceneSamples(SceneSet(scenes, (SIZE_PX, SIZE_PX), FIRST_SEED))
    found = torch.zeros(len(swin.DEPTHS))
    for sample in (samples[i] for i in range(scenes)):
        objects = (sample.labels > 0).float()[None]
        x = model.patch_embed(sample.picture[None])
        for number, stage in enumerate(model.layers):
            x = stage.downsample(x)
            side = x.shape[1]
            table = window_table((side, side), (swin.WINDOW,) * 2, (0, 0), rolls_first=True)
            order = rank_windows(magnitude(x.flatten(1, 2)), table)[0]
            kept = order[: len(order) - dropped_count(len(order), 0.6)]
            shares = F.adaptive_avg_pool2d(objects, side).flatten(1)
            found[number] += in_windows(shares, table)[0, kept].sum() / shares.sum()
            x = stage.blocks(x)
    return (found / scenes).tolist()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--scenes", type=int, default=24)
    arguments = parser.parse_args()
    dense = swin.load(SIZE_PX)
    arms = arms_of(dense)
    models = {name: model for name, (model, _) in arms.items()}
    picture = torch.randn(1, 3, SIZE_PX, SIZE_PX)
    # Adapted weights change no speed.
    timed = {name: m for name, m in models.items() if arms[name][1]["trained"] == "no"}
    calls = {name: lambda m=model: logits_of(m, picture) for name, model in timed.items()}
    times = timing.interleave(calls, arguments.repeats, torch.device("cpu"))
    scores, rows = quality(models, arguments.scenes), []
    for name, (_, said) in arms.items():
        plain = next(n for n in timed if arms[n][1]["setting"] == said["setting"])
        row = said | timing.summary(times[plain]) | {"gflops": timing.gflops(calls[plain])}
        rows.append(
            row | {"speedup": rows[0]["latency_ms"] / row["latency_ms"] if rows else 1.0} | scores[name]
        )
        print(name, {k: round(v, 4) for k, v in rows[-1].items() if isinstance(v, float)}, flush=True)
    result = {
        "protocol": timing.protocol(
            torch.device("cpu"), torch.float32, batch=1, repeats=arguments.repeats,
            resolution=f"{SIZE_PX}x{SIZE_PX}", scenes=arguments.scenes, first_seed=FIRST_SEED,
            adapted_steps={
                name: plan.recipe.get("stopped_after", plan.recipe["adaptation"]["steps"])
                for name, plan in plans().items()
                if plan.recipe
            },
            sparsity=SPARSITIES, command="python benchmarks/swin/run.py",
        ),
        "rows": rows,
        "by_stage": by_stage(dense, plans()["aligned"], STAGE_SCENES),
        "objects_found": {
            trained: objects_found(model, arguments.scenes) for trained, model in weighted(dense).items()
        },
    }  # fmt: skip
    write_json(Path(__file__).parents[1] / "results" / "swin-cpu.json", result)
