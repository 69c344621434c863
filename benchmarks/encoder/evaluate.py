"""Score training checkpoints, and put the chosen one into the package with its scores.

`python -m benchmarks.encoder.evaluate runs/encoder/phase7.safetensors [--install]`
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sparsight.demo import encoder, evaluate, scenes
from sparsight.files import write_json
from sparsight.stages import timing
from sparsight.stages.arm import Arm

HELD_OUT_FIRST_SEED = 20_000  # of the scores; training seeds start at 1 000 000 000
SIZES_PX = (512, 1024)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--install", action="store_true", help="write it into the package")
    arguments = parser.parse_args()

    weights = {name: value.half() for name, value in load_file(arguments.checkpoint).items()}
    model = encoder.build()
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    scores = {}
    for size in SIZES_PX:
        drawn = scenes.SceneSet(arguments.scenes, (size, size), HELD_OUT_FIRST_SEED)
        held_out = evaluate.SceneSamples(drawn)
        row = evaluate.evaluate({"dense": Arm(model.eval())}, held_out)["dense"]
        scores[f"{size}x{size}"] = {k: row[k] for k in ("miou", "accuracy")}
        print(size, row, flush=True)
    if arguments.install:
        folder = Path(encoder.__file__).parent / "weights"
        folder.mkdir(exist_ok=True)
        save_file(weights, folder / "encoder.safetensors")
        log = arguments.checkpoint.parent / "checkpoint.safetensors"
        from safetensors import safe_open

        with safe_open(log, "pt") as file:
            position = json.loads(file.metadata()["position"])
        write_json(
            folder / "encoder.json",
            {
                "command": "python -m benchmarks.encoder.train --out runs/encoder",
                "parameters": sum(p.numel() for p in model.parameters()),
                "trained_seconds": round(position["seconds"]),
                "machine": timing.machine(torch.device("cpu")),
                "versions": timing.versions(),
                "seed": 0,
                "held_out": {
                    "scenes": arguments.scenes,
                    "first_seed": HELD_OUT_FIRST_SEED,
                    "scores": scores,
                },
            },
        )
