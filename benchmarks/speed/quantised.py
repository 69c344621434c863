"""Quantisation beside sparsity, on the embedded encoder: speed, quality and who is kept.

`python -m benchmarks.speed.quantised` writes benchmarks/results/quantised-cpu.json.  In the order apply,
quantise, compile, with torchao ('sparsight[bench]'): every linear layer, or all but those of sparse
attention, from which the scores are.
"""

import copy

import torch
from benchmarks import harness
from torch import nn

import sparsight
from sparsight.attach import as_plan
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures, SceneSamples, evaluate
from sparsight.demo.run import (
    BEST,
    CALIBRATION_SCENES,
    CALIBRATION_SEED,
    EVALUATION_SEED,
    measuring_pictures,
)
from sparsight.demo.scenes import SceneSet
from sparsight.exports.graph import watched
from sparsight.images import Held
from sparsight.methods.sve.attention import SparseAttention
from sparsight.stages import timing
from sparsight.stages.arm import Arm
from sparsight.stages.bench import bench_of
from sparsight.stages.complete import complete

SIZE, SCENES, REPEATS = (1024, 1024), 12, 7
DENSE, SPARSE = "dense", "sve + early-exit"


def quantised(model: nn.Module, config: object, scoring: bool) -> nn.Module:
    """A copy; without `scoring` those of sparse attention stay in float32."""
    from torchao.quantization import quantize_

    made = copy.deepcopy(model)
    attends = tuple(
        f"{name}." for name, part in made.named_modules() if isinstance(part, SparseAttention)
    )

    def chosen(part: nn.Module, name: str) -> bool:
        return isinstance(part, nn.Linear) and (scoring or not name.startswith(attends))

    quantize_(made, config, filter_fn=chosen)
    return made


def kept(model: nn.Module, pictures: torch.Tensor) -> list[torch.Tensor]:
    """The kept sets of one pass."""
    sets: list[torch.Tensor] = []
    with torch.no_grad(), watched(sets):
        model.forward_features(pictures)
    return sets


def overlap(own: list[torch.Tensor], others: list[torch.Tensor]) -> float | None:
    """The share of what the first keeps that the others keep too."""
    shares = [torch.isin(a, b).float().mean().item() for a, b in zip(others, own, strict=True)]
    return sum(shares) / len(shares) if shares else None


if __name__ == "__main__":
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig as Int8
    from torchao.quantization import Int8WeightOnlyConfig as Weights

    model = encoder.load().eval()
    scenes = Held(ScenePictures(SceneSet(CALIBRATION_SCENES, SIZE, CALIBRATION_SEED)))
    plan = complete(bench_of(model, scenes, CALIBRATION_SCENES), as_plan(BEST))
    sparse = sparsight.apply(copy.deepcopy(model), plan)
    models = {
        DENSE: model,
        "dense, int8": quantised(model, Int8(), True),
        SPARSE: sparse,
        f"{SPARSE}, int8": quantised(sparse, Int8(), True),
        f"{SPARSE}, int8, attention in float32": quantised(sparse, Int8(), False),
        f"{SPARSE}, int8 weights": quantised(sparse, Weights(), True),
    }
    picture = measuring_pictures(SIZE)[0][None]
    calls, rows = {}, {}
    for name, one in models.items():
        told = overlap(kept(one, picture), kept(sparse, picture)) if SPARSE in name else None
        rows[name] = {"name": name, "overlap": told}
        run = torch.compile(one.forward_features, fullgraph=True)
        calls[name] = lambda f=one.forward_features: f(picture)
        calls[f"{name}, compiled"] = lambda f=run: f(picture)
    torch._dynamo.config.recompile_limit = 4 * len(models)  # each is one of its own
    with torch.inference_mode():
        times = timing.interleave(calls, REPEATS, torch.device("cpu"))
    quality = evaluate(
        {name: Arm(one) for name, one in models.items()},
        SceneSamples(SceneSet(SCENES, SIZE, EVALUATION_SEED)),
    )
    base = timing.summary(times[DENSE])["latency_ms"]
    for name, row in rows.items():
        row |= quality[name]
        for form in ("", ", compiled"):
            taken = timing.summary(times[name + form])["latency_ms"]
            key = "compiled_" if form else ""
            row |= {f"{key}latency_ms": taken, f"{key}speedup": base / taken}
    protocol = timing.protocol(
        torch.device("cpu"), torch.float32, batch=1, repeats=REPEATS, resolution="1024x1024",
        scenes=SCENES, method=plan.label, command="python -m benchmarks.speed.quantised",
    )  # fmt: skip
    harness.save("quantised-cpu", __file__, {"protocol": protocol, "rows": list(rows.values())})
