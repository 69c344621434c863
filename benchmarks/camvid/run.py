"""The demo's table on CamVid's validation frames, for the encoder that train.py made.

`python benchmarks/camvid/run.py --data CAMVID` writes benchmarks/results/camvid-cpu.json.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from train import CLASSES, SIZE, VOID, CamVid, build

import sparsight
from sparsight.demo import encoder
from sparsight.demo.evaluate import evaluate
from sparsight.demo.run import METHOD, build_arms, time_arms
from sparsight.files import write_json
from sparsight.run import PLAN_FILE
from sparsight.stages import timing
from sparsight.stages.arm import Arm
from sparsight.stages.calibrate import analyze
from sparsight.stages.measure import name
from sparsight.stages.optimize import projectors_of

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/camvid"))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--frames", type=int, default=101, help="validation frames, at most")
    arguments = parser.parse_args()
    model = build()
    model.load_state_dict(load_file(arguments.out / "camvid.safetensors"))
    images = sparsight.ImageFolder(arguments.data / "train" / "images", SIZE, encoder.MEAN, encoder.STD)
    distillation = sparsight.Distillation(steps=arguments.steps, scorers=("sampled", "linear"))
    run = arguments.out / "run"
    if (run / PLAN_FILE).exists():  # distilled before: only measure
        plan = sparsight.load(run)
    else:
        plan = sparsight.optimize(model, images, METHOD, run, distillation, max_images=8)
    print(*plan.reasons, sep="\n", flush=True)
    found = analyze(model, images, 8)
    sparse = sparsight.apply(model, plan)
    distilled = analyze(sparse, images, 8, projectors_of(plan))
    sparsight.restore(model)
    arms = build_arms(model, plan)
    val = CamVid(arguments.data / "val")
    samples = [val[i] for i in range(min(arguments.frames, len(val)))]
    speed = time_arms(arms, samples[0].picture, arguments.repeats)
    quality = evaluate({n: Arm(m) for n, m in arms.items()}, samples, CLASSES, slice(None), VOID)
    result = {
        "protocol": timing.protocol(
            torch.device("cpu"), torch.float32, resolution=name(SIZE), batch=1,
            repeats=arguments.repeats, frames=len(samples),
            distillation=plan.recipe["distillation"],
            method=plan.method.model_dump(mode="json"), reasons=list(plan.reasons),
            miou="mean over the eleven classes of the IoU of pixels, void ignored",
            command="python benchmarks/camvid/run.py --data CAMVID",
        ),
        "rows": [{"name": arm} | speed[arm] | quality[arm] for arm in arms],
        "analysis": found.model_dump(mode="json"),
        "analysis_distilled": distilled.model_dump(mode="json"),
    }  # fmt: skip
    write_json(Path(__file__).parents[1] / "results" / "camvid-cpu.json", result)
    for row in result["rows"]:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
