"""Every method on the embedded encoder, on scenes it has never seen."""

from collections.abc import Callable, Sequence
from typing import Any

from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures, SceneSamples, evaluate
from sparsight.demo.run import CALIBRATION_SEED, EVALUATION_SEED, RELEVANCE, packaged_plan
from sparsight.demo.scenes import SceneSet
from sparsight.plan import Plan
from sparsight.stages import compare as stage
from sparsight.stages.arm import Arm


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
    """`stages.compare` with mIoU on held-out scenes as quality, and the package's trained plans."""
    ours = [
        plan
        for method, found in (("sve", _distilled), ("spot", _relevant))
        if not methods or method in methods
        for plan in found()
    ]
    judge = by_miou(resolution, scenes, say)
    pictures = ScenePictures(SceneSet(8, resolution, CALIBRATION_SEED))
    result = stage.compare(encoder.load(), pictures, [*ours, *plans], methods, repeats, judge=judge)
    result["protocol"] |= {"scenes": scenes, "first_seed": EVALUATION_SEED, "images": scenes}
    return result


def _distilled() -> list[Plan]:
    """SVE's distilled weights, with the projectors they were made with and with a sample instead."""
    plan = packaged_plan()
    sampled = plan.sve.model_copy(update={"scorer": "sampled", "groups": ()})
    return [plan, plan.with_(method=sampled)]


def _relevant() -> list[Plan]:
    """SPOT's networks at several rho."""
    plan = packaged_plan(RELEVANCE)
    levels = [plan.method.model_copy(update={"rho": rho}) for rho in (0.9, 0.8, 0.7, 0.6)]
    return [plan.with_(method=method) for method in levels]
