"""The embedded encoder with its training-free plan, judged on CamVid: `features` and `segmentation`.

`python benchmarks/tasks.py --data CAMVID` writes benchmarks/results/tasks-camvid-demo.json, CAMVID
holding train/ and val/ with images/ and labels/.  The pictures are no part of the project.
"""

import argparse
from pathlib import Path

import sparsight
from sparsight import tables
from sparsight.demo import encoder
from sparsight.demo.run import packaged_plan
from sparsight.files import write_json

SIZE = (384, 512)  # 4:3 as the pictures: 24 x 32 patches
TRAINING_IMAGES = 150  # of 367: a few minutes on two cores

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    chosen = packaged_plan().method  # as `sve-sampled` of the demo: its layers, without its weights
    method = chosen.model_copy(update={"scorer": "sampled", "groups": ()})
    plan, model = sparsight.Plan(method=method, source="demo"), encoder.load()
    common = {"mean": encoder.MEAN, "std": encoder.STD}
    result = {
        "command": "python benchmarks/tasks.py --data CAMVID",
        "features": sparsight.evaluate(
            model, plan, "features", data / "val" / "images", SIZE, **common
        ),
        "segmentation": sparsight.evaluate(
            model, plan, "segmentation", data, SIZE, max_train_images=TRAINING_IMAGES, **common
        ),
    }  # fmt: skip
    write_json(Path(__file__).parent / "results" / "tasks-camvid-demo.json", result)
    for task in ("features", "segmentation"):
        tables.show_evaluation(result[task])
