"""Fuller pictures: a fraction that is free on empty scenes is not on full ones; is one bound?

`python -m benchmarks.quality.fuller` writes benchmarks/results/fuller-cpu.json.  Three levels of scenes:
about 10 objects, 40, and 100.  Maps, scores and bounds are fitted once, on a mixture of all three from
the calibration seeds, and serve every level; quality is judged on held-out scenes of each level.
"""

import statistics
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks import rows as shared

import sparsight
from sparsight.demo import encoder
from sparsight.demo.evaluate import ScenePictures, SceneSamples, evaluate, picture_of
from sparsight.demo.run import CALIBRATION_SEED, EVALUATION_SEED, FIRST, MEASURING_SEED
from sparsight.demo.scenes import Scene, draw
from sparsight.methods import Settings
from sparsight.methods.reduced import CARRY
from sparsight.modes import evaluating
from sparsight.stages import timing
from sparsight.stages.arm import Arm
from sparsight.stages.bench import bench_of
from sparsight.stages.measure import name
from sparsight.stages.observe import outputs_of

LEVELS = {"usual": None, "40 objects": 40, "100 objects": 100}
PICTURES = 12  # of calibration: as many of each level
KEEPS = (0.45, 0.6, 0.7)
# On full pictures sparse attention costs more than the exit does: here it keeps more, and is completed.
MILD = FIRST.model_copy(update={"keep": 3 / 8}).completed()


def leaving(keep: float, **more: Any) -> tuple[Settings, ...]:
    """Sparse attention while all tokens are there, and tokens that leave after it."""
    return (FIRST, sparsight.EarlyExit(after=(2,), keep=keep, **more))


def merging(keep: float) -> sparsight.DensityPeaks:
    """Tokens that merge there, finished by a map."""
    return sparsight.DensityPeaks(after=2, keep=keep, completion="map")


ROWS: dict[str, tuple[Settings, ...]] = {
    "fixed, standout": leaving(0.45),
    "fixed, map-error": leaving(0.45, score="map-error"),
    **{f"bound {keep}": leaving(keep, score="map-error", bound="calibrated") for keep in KEEPS},
    **{
        f"mild sve, bound {keep}": (MILD, leaving(keep, score="map-error", bound="calibrated")[1])
        for keep in KEEPS[1:]
    },
    **{f"merged {keep}": (FIRST, merging(keep)) for keep in (0.5, 0.6)},
    **{f"mild sve, merged {keep}": (MILD, merging(keep)) for keep in (0.4, 0.6)},
}


@dataclass(frozen=True)
class Level:
    """Scenes with so many objects each; of several levels, in turn."""

    count: int
    size: tuple[int, int]
    first_seed: int
    objects: tuple[int | None, ...]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return draw(self.first_seed + index, self.size, self.objects[index % len(self.objects)])


def staying(model: Any, scenes: Level) -> float:
    """The mean share of the tokens that is there in the end."""
    last, shares = len(model.blocks) - 1, []
    for picture in (picture_of(scenes[n]) for n in range(len(scenes))):
        with evaluating(model), outputs_of(model, (last,)) as outputs:
            model.forward_features(picture[None])
        state = getattr(outputs[last], CARRY, None)
        shares.append(state.rows.shape[1] / outputs[last].shape[1] if state else 1.0)
    return statistics.mean(shares)


def judged(arms: dict[str, Any], scenes: Level) -> dict[str, dict[str, Any]]:
    """Quality, and how many tokens stay, of every arm on scenes of one level."""
    found = evaluate({arm: Arm(model) for arm, model in arms.items()}, SceneSamples(scenes))
    return {arm: dict(row) | {"staying": staying(arms[arm], scenes)} for arm, row in found.items()}


if __name__ == "__main__":
    parser = shared.parser(__doc__, "fuller-cpu", 12, repeats=5)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--timed", type=int, default=2, help="pictures of each level that are timed")
    given = parser.parse_args()
    model, size = encoder.load(), (given.size, given.size)
    mixture = Level(PICTURES, size, CALIBRATION_SEED, tuple(LEVELS.values()))
    bench = bench_of(model, ScenePictures(mixture), PICTURES)
    prepared = {row: shared.completed(bench, ROWS[row], given.work / row) for row in ROWS}
    plans = {row: plan for row, (plan, _) in prepared.items()}
    arms, rows = shared.applied(model, plans), []
    scores = {
        level: shared.kept(
            given.work / f"quality {level}.json",
            lambda objects=objects: judged(
                arms, Level(given.scenes, size, EVALUATION_SEED, (objects,))
            ),
            given.size, given.scenes,
        )
        for level, objects in LEVELS.items()
    }  # fmt: skip
    for level, objects in LEVELS.items():
        scenes = Level(given.timed, size, MEASURING_SEED, (objects,))
        pictures = [picture_of(scenes[n]) for n in range(given.timed)]
        speed = shared.time_on(arms, pictures, given.repeats)
        filled = statistics.mean((scenes[n].labels > 0).mean().item() for n in range(given.timed))
        rows += [
            {"level": level, "objects_share": filled, "arm": arm}
            | shared.said(plans.get(arm))
            | speed[arm]
            | scores[level][arm]
            for arm in arms
        ]
    protocol = timing.protocol(
        torch.device("cpu"), torch.float32, batch=1, repeats=given.repeats, scenes=given.scenes,
        resolution=name(size), first_seed=EVALUATION_SEED, timed_pictures=given.timed,
        calibration_pictures=PICTURES, calibration="a mixture of the three levels, as many of each",
        levels=LEVELS, command="python -m benchmarks.quality.fuller",
    )  # fmt: skip
    shared.written(given.out, protocol, rows=rows)
    for row in rows:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
