"""From how many tokens on sparse attention pays, for several models: the default for uncalibrated plans.

`python -m benchmarks.speed.crossover` writes benchmarks/results/crossover-<device>.json.
"""

import torch
from benchmarks import harness

import sparsight
from sparsight.attach import as_plan
from sparsight.models import load_model
from sparsight.stages import timing
from sparsight.stages.crossover import REPEATS, crossover

MODELS = ("demo", "timm:vit_small_patch14_dinov2", "timm:vit_base_patch14_dinov2")

if __name__ == "__main__":
    device, rows = torch.device("cpu"), []
    for source in MODELS:
        model = load_model(source, (448, 448)).model
        plan = as_plan(sparsight.SVE(layers=range(len(model.blocks))))
        tokens, sizes = crossover(model, plan)
        rows.append({"model": source, "min_tokens": tokens, "sizes": sizes})
        print(source, tokens, flush=True)
    result = {
        "protocol": timing.protocol(
            device, torch.float32, method=sparsight.SVE().model_dump(mode="json"), batch=1,
            repeats=REPEATS, command="python -m benchmarks.speed.crossover",
        ),
        "rows": rows,
    }  # fmt: skip
    harness.save("crossover-cpu", __file__, result)
