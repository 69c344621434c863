"""SVE's Tables 1 to 3 and Figures 4 and 5 for the public checkpoints, beside what the paper states.

`python -m benchmarks.paper.run` writes benchmarks/results/paper-<device>.json and says, for what it
leaves out, which file is missing: weights below --weights, data sets below --data.  Speed and operations
need neither.  What the project's own encoders show is in the results of the demo and of CamVid.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from benchmarks.paper.config import NAMES, read
from benchmarks.paper.judge import analyzed, judged
from benchmarks.paper.speed import KEEP, measured

from sparsight.files import write_json
from sparsight.stages import timing

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    result: dict[str, Any] = {
        "protocol": timing.protocol(
            device, torch.float32, batch=1, repeats=arguments.repeats, keep=KEEP,
            weights="random for speed", command="python -m benchmarks.paper.run",
        )
    }  # fmt: skip
    for name in NAMES:
        rows = result.setdefault(name, [])
        for encoder in read(name):
            row: dict[str, Any] = {"name": encoder.name}
            rows.append(row)
            if encoder.paper is not None:
                row["speed"] = _known(result, encoder.model, encoder.resolution) or measured(
                    encoder, device, arguments.repeats
                )
                row["speed"] |= {"model": encoder.model, "resolution": encoder.resolution}
                print(name, encoder.name, f"{row['speed']['speedup']:.2f}x", flush=True)
            row["tasks"] = [_judge(encoder, task, arguments, name) for task in encoder.tasks]
            if encoder.analyze:
                row |= _analyze(encoder, arguments)
            write_json(RESULTS / f"paper-{device.type}.json", result)


def _known(result: dict[str, Any], model: str, resolution: int) -> dict[str, Any] | None:
    """The speed of the same model at the same size, if an earlier table has measured it."""
    rows = [row["speed"] for name in NAMES for row in result.get(name, ()) if "speed" in row]
    same = (row for row in rows if (row["model"], row["resolution"]) == (model, resolution))
    return next(same, None)


def _judge(encoder, task, arguments, name: str) -> dict[str, Any]:
    folders = [task.data, task.images, *([encoder.finetune] if encoder.finetune else [])]
    missing = encoder.missing(arguments.weights, *(arguments.data / folder for folder in folders))
    if missing:
        print(f"{name}, {encoder.name}, {task.task} on {task.data}: skipped, no {', '.join(missing)}")
        return {"missing": missing}
    out = arguments.out / name / encoder.name.replace(" ", "-") / task.data
    return judged(encoder, task, arguments.weights, arguments.data, out, {"steps": arguments.steps})


def _analyze(encoder, arguments) -> dict[str, Any]:
    missing = encoder.missing(arguments.weights, arguments.data / encoder.analyze)
    if missing:
        print(f"{encoder.name}: skipped, no {', '.join(missing)}")
        return {"missing": missing}
    return {"analysis": analyzed(encoder, arguments.weights, arguments.data / encoder.analyze)}


if __name__ == "__main__":
    main()
