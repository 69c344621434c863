"""Every method on the embedded encoder, on scenes it has never seen."""

from collections.abc import Callable, Sequence
from typing import Any

from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures, SceneSamples, evaluate
from sparsight.demo.run import CALIBRATION_SCENES, CALIBRATION_SEED, EVALUATION_SEED, packaged_plan
from sparsight.demo.scenes import SceneSet
from sparsight.images import Held, Images
from sparsight.methods import SPOT
from sparsight.plan import Plan
from sparsight.stages import compare as stage
from sparsight.stages.arm import Arm
from sparsight.stages.bench import bench_of
from sparsight.stages.complete import complete


def by_miou(
    resolution: tuple[int, int], scenes: int, say: Callable[[str], None]
) -> tuple[str, stage.Judge]:
    """mIoU on held-out scenes as the quality of arms."""
    samples = SceneSamples(SceneSet(scenes, resolution, EVALUATION_SEED))

    def judge(arms: Sequence[Arm]) -> list[dict[str, float]]:
        say(f"judging {len(arms)} arms on {scenes} held-out scenes")
        rows = evaluate({str(place): arm for place, arm in enumerate(arms)}, samples)
        return [dict(row) | {"quality": row["miou"]} for row in rows.values()]  # type: ignore[misc]

    return "mIoU", judge


def compare_demo(
    resolution: tuple[int, int], scenes: int, repeats: int, plans: Sequence[Plan],
    methods: Sequence[str], say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """`stages.compare` with mIoU on held-out scenes as quality, and the package's networks of SPOT."""
    model, pictures = (
        encoder.load(),
        Held(ScenePictures(SceneSet(CALIBRATION_SCENES, resolution, CALIBRATION_SEED))),
    )
    ours = relevant(model, pictures) if not methods or "spot" in methods else []
    judge = by_miou(resolution, scenes, say)
    result = stage.compare(model, pictures, [*ours, *plans], methods, repeats, judge=judge)
    result["protocol"] |= {"scenes": scenes, "first_seed": EVALUATION_SEED, "images": scenes}
    return result


def relevant(model: Any, pictures: Images) -> list[Plan]:
    """SPOT's networks at several rho, as published and completed."""
    plan, bench = packaged_plan(), bench_of(model, pictures)
    levels = [plan.one(SPOT).model_copy(update={"rho": rho}) for rho in (0.9, 0.7)]
    return [
        complete(bench, plan.changed(method))
        for level in levels
        for method in (level, level.completed())
    ]
