"""Every method on the embedded encoder, on scenes it has never seen."""

from collections.abc import Callable, Sequence
from typing import Any

from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures, SceneSamples, evaluate
from sparsight.demo.run import CALIBRATION_SEED, EVALUATION_SEED, packaged_plan
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
    """`stages.compare` with mIoU on held-out scenes as quality, and the package's distilled plan."""
    distilled = packaged_plan()
    sampled = distilled.sve.model_copy(update={"scorer": "sampled", "groups": ()})
    ours = [distilled, distilled.with_(method=sampled)] if not methods or "sve" in methods else []
    judge = by_miou(resolution, scenes, say)
    pictures = ScenePictures(SceneSet(8, resolution, CALIBRATION_SEED))
    result = stage.compare(encoder.load(), pictures, [*ours, *plans], methods, repeats, judge=judge)
    result["protocol"] |= {"scenes": scenes, "first_seed": EVALUATION_SEED, "images": scenes}
    return result
