"""How much memory exact statistics of 2 K pictures (16 K tokens) take above the model.

`python -m benchmarks.speed.memory` writes benchmarks/results/memory-<device>.json.
"""

import torch
from benchmarks import harness

from sparsight.models import load_model
from sparsight.stages import timing
from sparsight.stages.calibrate import analyze
from sparsight.stages.measure import name

TIMM_NAME, SIZES_PX, LAYERS = "vit_small_patch14_dinov2", (1036, 1792), 2

if __name__ == "__main__":
    device, rows = torch.device("cpu"), []
    for size in SIZES_PX:
        model = load_model(f"timm:{TIMM_NAME}", (size, size)).model
        model.blocks = model.blocks[:LAYERS]  # what a layer needs is freed before the next
        picture = torch.randn(3, size, size)
        peak = timing.peak_memory_mb(lambda m=model, p=picture: analyze(m, [p]), device)
        tokens = (size // 14) ** 2 + 1
        full_map = 6 * tokens**2 * 4 / 1e6
        rows.append(
            {
                "resolution": name((size, size)),
                "tokens": tokens,
                "peak_mb": peak,
                "full_map_mb": full_map,
            }
        )
        print(rows[-1], flush=True)
    result = {
        "protocol": timing.protocol(
            device, torch.float32, model=TIMM_NAME, layers=LAYERS, batch=1,
            command="python -m benchmarks.speed.memory",
        ),
        "rows": rows,
    }  # fmt: skip
    harness.save("memory-cpu", __file__, result)
