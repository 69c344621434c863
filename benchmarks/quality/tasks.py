"""The embedded encoder made sparse without training, judged on CamVid: `features` and `segmentation`.

`python -m benchmarks.quality.tasks --data CAMVID` writes results/tasks-camvid-demo.json, CAMVID
holding train/ and val/ with images/ and labels/.  The pictures are no part of the project; maps are
fitted on training frames, without their labels.
"""

import argparse
from pathlib import Path

import sparsight
from sparsight import tables
from sparsight.attach import as_plan
from sparsight.demo import encoder
from sparsight.demo.run import NINE
from sparsight.files import write_json
from sparsight.stages.bench import bench_of
from sparsight.stages.complete import complete

SIZE = (384, 512)  # 4:3 as the pictures: 24 x 32 patches
RESULT = Path(__file__).parents[1] / "results" / "tasks-camvid-demo.json"
PICTURES = 16  # of calibration
TRAINING_IMAGES = 150  # of 367: a few minutes on two cores

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=TRAINING_IMAGES, help="the probe is trained on")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    data, model = given.data, encoder.load()
    common = {"mean": encoder.MEAN, "std": encoder.STD}
    frames = sparsight.ImageFolder(data / "train" / "images", SIZE, **common)
    sve = as_plan(NINE.completed()).with_(source="demo").at_any_size()  # there are 769 tokens here
    plan = complete(bench_of(model, frames, PICTURES), sve)
    result = {
        "command": "python -m benchmarks.quality.tasks --data CAMVID",
        "features": sparsight.evaluate(
            model, plan, "features", data / "val" / "images", SIZE, **common
        ),
        "segmentation": sparsight.evaluate(
            model, plan, "segmentation", data, SIZE, max_train_images=given.images, **common
        ),
    }  # fmt: skip
    write_json(given.out, result)
    for task in ("features", "segmentation"):
        tables.show_evaluation(result[task])
