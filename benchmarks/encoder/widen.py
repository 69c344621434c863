"""Adapt more layers of the embedded encoder than the package's plan has, for the search to choose from.

`python benchmarks/encoder/widen.py` goes on from the package's distilled weights with the first eleven
layers sparse, and writes the run folder benchmarks/encoder/wide (weights in float16).  Interrupted, the
same command goes on.  `sparsight optimize demo --start benchmarks/encoder/wide` searches it.
"""

from pathlib import Path

from sparsight.attach import apply, restore
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures
from sparsight.demo.run import (
    CALIBRATION_SCENES,
    CALIBRATION_SEED,
    DISTILLATION_SCENES,
    packaged_plan,
)
from sparsight.demo.scenes import SceneSet
from sparsight.run import save_plan
from sparsight.stages.distil import CHECKPOINT_FILE, Distillation, distil
from sparsight.stages.predict import fit_projectors

HERE = Path(__file__).parent
OUT, WORK = HERE / "wide", HERE.parents[1] / "runs" / "wide"
LAYERS = tuple(range(11))  # the last one alone does more harm than any two others
DISTILLATION = Distillation(
    steps=240, scorers=("sampled", "linear"), checkpoint_every_s=120, learning_rate=1.5e-4
)

if __name__ == "__main__":
    WORK.mkdir(parents=True, exist_ok=True)
    model, start = encoder.load(), packaged_plan()
    pictures = ScenePictures(SceneSet(DISTILLATION_SCENES, encoder.IMAGE_SIZE, CALIBRATION_SEED))
    method = start.sve.model_copy(update={"layers": LAYERS, "groups": (), "min_tokens": 0})
    plan = start.with_(
        method=method, weights=fit_projectors(model, pictures, LAYERS, CALIBRATION_SCENES)
    )
    plan, losses = distil(model, plan, pictures, DISTILLATION, WORK)
    print(f"loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last")
    apply(model, plan)
    weights = fit_projectors(model, pictures, LAYERS, CALIBRATION_SCENES)  # of the adapted model
    restore(model)
    plan = plan.with_(weights=weights, layers=(), reasons=(f"distilled for {len(losses)} steps",))
    save_plan(plan.with_(weights={name: value.half() for name, value in plan.weights.items()}), OUT)
    (WORK / CHECKPOINT_FILE).unlink()
