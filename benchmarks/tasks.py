"""The embedded encoder with its training-free plan, judged on CamVid: `features` and `segmentation`.

    sparsight optimize demo --images CAMVID/train/images --resolution 480x640 --out runs/tasks
    python benchmarks/tasks.py --run runs/tasks --data CAMVID

writes benchmarks/results/tasks-camvid-demo.json.  The pictures are no part of the project.
"""

import argparse
from pathlib import Path

import sparsight
from sparsight import tables
from sparsight.demo import encoder
from sparsight.files import write_json

COMMAND = "python benchmarks/tasks.py --run RUN --data CAMVID"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/tasks"))
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    plan, model = sparsight.load(arguments.run), encoder.load()
    pictures = {"mean": encoder.MEAN, "std": encoder.STD}
    result = {"command": COMMAND, "reasons": list(plan.reasons)}
    folders = {"features": arguments.data / "val" / "images", "segmentation": arguments.data}
    for task, folder in folders.items():
        result[task] = sparsight.evaluate(model, plan, task, folder, **pictures)
        tables.show_evaluation(result[task])
    write_json(Path(__file__).parent / "results" / "tasks-camvid-demo.json", result)
