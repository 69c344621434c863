"""Compare: every method that fits a model, side by side: quality against latency, in one run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparsight.attach import UNFIT, applied, family_in, resolve
from sparsight.errors import PlanError
from sparsight.families import encoder_in
from sparsight.images import Images, Reader
from sparsight.methods import METHODS, SVE, LowerResolution, method_of
from sparsight.ops import fidelity
from sparsight.plan import Plan
from sparsight.stages import select, timing
from sparsight.stages.arm import Arm, arm_of
from sparsight.stages.measure import fused, name
from sparsight.stages.observe import evaluating
from sparsight.stages.progress import track
from sparsight.stages.route import fit_maps

RANKING_IMAGES = 2  # layers are ranked by the damage each does alone


@dataclass(frozen=True)
class Entry:
    """One row of the comparison, before anything is measured."""

    method: str
    setting: str
    trained: bool
    arm: Arm


# Quality of every arm, the first being the dense one: "quality", "relative_error" and its worst picture.
Judge = Callable[[Sequence[Arm]], list[dict[str, float]]]


def compare(
    model: nn.Module,
    images: Images,
    plans: Sequence[Plan] = (),
    methods: Iterable[str] = (),
    repeats: int = 7,
    max_images: int = 8,
    module: str | None = None,
    judge: tuple[str, Judge] | None = None,
) -> dict[str, Any]:
    """Measure the dense model, all methods that need no training, and `plans`, on `images`.

    `methods`  names of those to compare; none: all that fit the model
    `judge`    name and function of another quality than the cosine to the dense features
    Returns `protocol`, `rows` and what was `left_out`, by method and with the reason.
    """
    model = encoder_in(model, module)
    if applied(model):
        raise PlanError("compare starts from the dense model: restore the model first")
    if unknown := sorted(set(methods) - METHODS.keys()):
        raise PlanError(f"no method is called {unknown[0]!r}; there are {', '.join(METHODS)}")
    picture = next(Reader(images).spread(1))[None]
    size = (picture.shape[2], picture.shape[3])
    first = next(model.parameters())
    quality_name, judged = judge or ("cosine to the dense features", by_features(images, max_images))
    with evaluating(model):
        entries, left_out = line_up(model, images, plans, set(methods) or METHODS.keys(), size)
        with fused(*(entry.arm.model for entry in entries)):
            like = picture.to(first.device, first.dtype)
            times, counts = measured([entry.arm for entry in entries], like, repeats)
        scores = judged([entry.arm for entry in entries])
    dense = timing.summary(times[0])["latency_ms"]
    rows = [
        {"method": entry.method, "setting": entry.setting, "trained": entry.trained}
        | timing.summary(taken)
        | {"speedup": dense / timing.summary(taken)["latency_ms"], "gflops": flops}
        | {"quality_name": quality_name}
        | score
        for entry, taken, flops, score in zip(entries, times, counts, scores, strict=True)
    ]
    protocol = timing.protocol(
        first.device, first.dtype, repeats=repeats, resolution=name(size), batch=1,
        images=min(max_images, len(images)),
    )  # fmt: skip
    return {"protocol": protocol, "rows": rows, "left_out": left_out}


def line_up(
    model: nn.Module, images: Images, plans: Sequence[Plan], methods: Iterable[str],
    size: tuple[int, int],
) -> tuple[list[Entry], dict[str, str]]:  # fmt: skip
    """The rows to be, and why a method has none."""
    family = family_in(model)
    entries = [Entry("dense", "", False, Arm(model))]
    left_out: dict[str, str] = {}
    layers = family.global_layers(model)
    ranking, maps = layers, dict[str, Tensor]()
    if "sve" in methods and layers:
        trials = [SVE(layers=(n,), min_tokens=0) for n in layers]
        damages = select.damage_of(model, images, trials, RANKING_IMAGES)
        ranking = tuple(n for _, n in sorted(zip(damages, layers, strict=True)))
    for method in methods:
        known = METHODS[method]
        if known.block and not family.layers_with(known.needs, model):
            left_out[method] = UNFIT[known.needs].format(method=method, family=family.name)
            continue
        ladder = known.config.ladder(ranking)
        if not ladder:
            left_out[method] = "needs training: give a run of it"
        try:
            for config in ladder:
                plan = Plan(method=config)
                if isinstance(config, SVE) and config.routes:  # closed form: no weight is trained
                    maps = maps or fit_maps(model, images, layers, RANKING_IMAGES)
                    plan = plan.with_(weights=maps)
                if not isinstance(config, LowerResolution):
                    resolve(plan, model, family)
                entries.append(Entry(row_name(plan), config.label(), False, arm_of(model, plan, size)))
        except PlanError as error:
            left_out[method] = str(error)
    for plan in plans:
        entries.append(
            Entry(row_name(plan), plan.method.label(), bool(plan.weights), arm_of(model, plan, size))
        )
        left_out.pop(method_of(plan.method).name, None)
    return entries, left_out


def row_name(plan: Plan) -> str:
    """The method's name; `sve-mlp` where SVE lets some tokens skip the MLP."""
    method = method_of(plan.method).name
    return f"{method}-mlp" if isinstance(plan.method, SVE) and plan.method.routes else method


def measured(
    arms: Sequence[Arm], picture: Tensor, repeats: int
) -> tuple[list[list[float]], list[float]]:
    """Milliseconds of every arm, interleaved, and GFLOPs of each."""
    calls = {str(place): (lambda arm=arm: arm(picture)) for place, arm in enumerate(arms)}
    times = timing.interleave(calls, repeats, picture.device, "Measuring")
    return list(times.values()), [timing.gflops(call) for call in calls.values()]


def by_features(images: Images, max_images: int) -> Judge:
    """Cosine and relative error of the final features, on the dense model's grid."""

    def judge(arms: Sequence[Arm]) -> list[dict[str, float]]:
        like = next(arms[0].model.parameters())
        found: list[dict[str, list[float]]] = [{"cosine": [], "error": []} for _ in arms]
        count = min(max_images, len(images))
        for picture in track(Reader(images).spread(max_images), "Comparing features", count):
            batch = picture[None].to(like.device, like.dtype)
            wanted = arms[0].full_size(batch)
            for arm, seen in zip(arms, found, strict=True):
                with evaluating(arm.model):
                    got = arm.full_size(batch)
                seen["cosine"].append(fidelity.cosine(got, wanted).item())
                seen["error"].append(fidelity.relative_error(got, wanted).item())
        return [summed_up(seen) for seen in found]

    return judge


def summed_up(seen: Mapping[str, list[float]]) -> dict[str, float]:
    """Mean and worst picture."""
    cosines, errors = seen["cosine"], seen["error"]
    return {
        "quality": sum(cosines) / len(cosines), "quality_worst": min(cosines),
        "relative_error": sum(errors) / len(errors), "relative_error_worst": max(errors),
    }  # fmt: skip
