"""Which tokens may skip the MLP of a sparse layer, and what stands in for it.

`python benchmarks/encoder/routing.py` writes benchmarks/results/routing-cpu.json: the embedded encoder
with the layers of the package's plan, undistilled, a quarter of the tokens through the MLP, chosen and
replaced in each of the four ways.
"""

import argparse
import copy
from itertools import product
from pathlib import Path

import torch

import sparsight
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures, SceneSamples, evaluate
from sparsight.demo.run import CALIBRATION_SCENES, CALIBRATION_SEED, MEASURING_SEED, packaged_plan
from sparsight.demo.scenes import SceneSet
from sparsight.files import write_json
from sparsight.plan import Plan
from sparsight.stages import timing
from sparsight.stages.arm import Arm
from sparsight.stages.measure import name
from sparsight.stages.route import fit_maps

RESULT = Path(__file__).parents[1] / "results" / "routing-cpu.json"
SIZE, KEPT = (1024, 1024), 1 / 4

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=16)
    arguments = parser.parse_args()
    model, method = encoder.load(), packaged_plan().sve
    method = method.model_copy(update={"scorer": "sampled", "groups": ()})
    pictures = ScenePictures(SceneSet(CALIBRATION_SCENES, SIZE, CALIBRATION_SEED))
    plan = Plan(method=method).with_(
        weights=fit_maps(model, pictures, method.named_layers, CALIBRATION_SCENES)
    )
    arms = {"dense": model, "every token": sparsight.apply(copy.deepcopy(model), plan)}
    for by, rest in product(("attention", "salience"), ("residual", "linear")):
        ways = {"mlp_keep": KEPT, "mlp_by": by, "mlp_rest": rest}
        routed = plan.with_(method=method.model_copy(update=ways))
        arms[f"{by}, {rest}"] = sparsight.apply(copy.deepcopy(model), routed)
    scores = evaluate(
        {arm: Arm(changed) for arm, changed in arms.items()},
        SceneSamples(SceneSet(arguments.scenes, SIZE, MEASURING_SEED)),
    )
    protocol = timing.setting(torch.device("cpu"), torch.float32) | {
        "scenes": arguments.scenes, "first_seed": MEASURING_SEED, "resolution": name(SIZE),
        "mlp_keep": KEPT, "layers": list(method.named_layers),
    }  # fmt: skip
    write_json(RESULT, {"protocol": protocol, "rows": [{"name": arm} | scores[arm] for arm in arms]})
