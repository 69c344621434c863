"""A sparse model behind a server: first calls, mixed sizes, two models in two threads.

`python -m benchmarks.speed.serving` writes results/serving-cpu.json, on the embedded encoder with
the plan of the demo, under `torch.inference_mode`.  Every figure has its dense twin beside it.
"""

import copy
import statistics
import threading
import time

import torch
from benchmarks import harness

import sparsight
from sparsight.attach import as_plan
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures
from sparsight.demo.run import BEST, CALIBRATION_SCENES, CALIBRATION_SEED
from sparsight.demo.scenes import SceneSet
from sparsight.images import Held
from sparsight.stages import timing
from sparsight.stages.bench import bench_of
from sparsight.stages.complete import complete

SIZES = (256, 1024, 512, 768)  # in turn: 256 px is below min_tokens
CALLS, FRESH = 8, 5


def call(model, size):
    """Milliseconds of one picture."""
    picture = torch.randn(1, 3, size, size)
    began = time.perf_counter()
    with torch.inference_mode():
        model.forward_features(picture)
    return 1e3 * (time.perf_counter() - began)


def first(model, size):
    """The first call of a fresh copy, and the median of those that follow."""
    firsts, steady = [], []
    for _ in range(FRESH):
        fresh = copy.deepcopy(model)
        firsts.append(call(fresh, size))
        steady += [call(fresh, size) for _ in range(3)]
    return {"first_ms": statistics.median(firsts), "steady_ms": statistics.median(steady)}


def alone_and_mixed(model):
    """By size: the median of calls of that size alone, and of the same between calls of others."""
    alone = {size: [call(model, size) for _ in range(CALLS)] for size in SIZES}
    mixed = {size: [] for size in SIZES}
    for _ in range(CALLS):
        for size in SIZES:
            mixed[size].append(call(model, size))
    return {
        str(size): {
            "alone_ms": statistics.median(alone[size]),
            "mixed_ms": statistics.median(mixed[size]),
        }
        for size in SIZES
    }


def threads(models, size, parallel):
    """Pictures a second of so many models, one after the other or each in a thread of its own."""

    def serve(model):
        for _ in range(CALLS):
            call(model, size)

    began = time.perf_counter()
    if parallel:
        running = [threading.Thread(target=serve, args=(model,)) for model in models]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    else:
        for model in models:
            serve(model)
    return len(models) * CALLS / (time.perf_counter() - began)


if __name__ == "__main__":
    model = encoder.load().eval()
    scenes = Held(ScenePictures(SceneSet(CALIBRATION_SCENES, (1024, 1024), CALIBRATION_SEED)))
    plan = complete(bench_of(model, scenes, CALIBRATION_SCENES), as_plan(BEST))
    arms = {"dense": model, "sve + early-exit": sparsight.apply(copy.deepcopy(model), plan)}
    rows = []
    for name, one in arms.items():
        call(one, 1024)
        pair = [one, copy.deepcopy(one)]
        speeds = {
            "one_after_the_other": threads(pair, 1024, parallel=False),
            "two_threads": threads(pair, 1024, parallel=True),
        }
        rows.append({"name": name, "sizes": alone_and_mixed(one)} | first(one, 1024) | speeds)
        print(rows[-1], flush=True)
    protocol = timing.protocol(
        torch.device("cpu"), torch.float32, batch=1, repeats=CALLS, resolution="1024x1024",
        method=plan.label, command="python -m benchmarks.speed.serving",
    )  # fmt: skip
    harness.save("serving-cpu", __file__, {"protocol": protocol, "rows": rows})
