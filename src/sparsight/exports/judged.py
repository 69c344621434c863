"""An exported file judged by a task, beside the dense and the sparse model in PyTorch."""

import copy
from pathlib import Path
from typing import Any

from torch import nn

from sparsight.attach import apply
from sparsight.demo.evaluate import SceneSamples
from sparsight.demo.evaluate import evaluate as evaluate_scenes
from sparsight.demo.run import EVALUATION_SEED
from sparsight.demo.scenes import SceneSet
from sparsight.exports.opened import open_exported
from sparsight.exports.standin import stand_in
from sparsight.families import encoder_in
from sparsight.plan import Plan
from sparsight.stages.arm import Arm
from sparsight.tasks.evaluate import evaluate

SCENES = 16


def judged_by_scenes(file: Path, model: nn.Module, plan: Plan) -> dict[str, Any]:
    """mIoU of the embedded encoder on scenes, each arm at the file's largest size."""
    exported = open_exported(file)
    arms = {
        "dense": Arm(model), "pytorch": Arm(apply(copy.deepcopy(model), plan)),
        "engine": Arm(stand_in(model, exported)),
    }  # fmt: skip
    scenes = SceneSet(SCENES, exported.manifest.shapes.largest, EVALUATION_SEED)
    rows = evaluate_scenes(arms, SceneSamples(scenes))
    score = {"metric": "mIoU"} | {arm: row["miou"] for arm, row in rows.items()}
    return {"task": "segmentation", "data": "scenes", "images": SCENES, "scores": [score]}


def judged_by_task(
    file: Path, model: nn.Module, plan: Plan, task: str, data: Path, **options: Any
) -> dict[str, Any]:
    """The task's scores on the folder `data`; SparsightError if the task reads more than features."""
    exported = open_exported(file)
    size, module = exported.manifest.shapes.largest, exported.manifest.module
    engine = stand_in(encoder_in(model, module), exported)
    of_engine = evaluate(model, plan, task, data, size, module, engine, **options)
    of_model = evaluate(model, plan, task, data, size, module, **options)
    pairs = zip(of_model["scores"], of_engine["scores"], strict=True)
    scores = [
        {"metric": ours["metric"], "dense": ours["dense"], "pytorch": ours["sparse"]}
        | {"engine": theirs["sparse"]}
        for ours, theirs in pairs
    ]
    protocol = of_model["protocol"]
    return {"task": task} | {key: protocol[key] for key in ("data", "images")} | {"scores": scores}
