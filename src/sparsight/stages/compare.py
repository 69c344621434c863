"""Compare: every method that fits a model, side by side: quality against latency, in one run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparsight.arguments import checked
from sparsight.attach import applied, as_plan, family_in
from sparsight.data import Count
from sparsight.errors import PlanError, SparsightError
from sparsight.families import encoder_in
from sparsight.fit import UNFIT, resolve
from sparsight.images import Held, Images, Reader
from sparsight.methods import METHODS, SVE, EarlyExit, Settings, SparseViT
from sparsight.modes import evaluating
from sparsight.ops import fidelity
from sparsight.plan import Plan
from sparsight.stages import select, timing
from sparsight.stages.arm import Arm, arm_of
from sparsight.stages.bench import Bench, bench_of
from sparsight.stages.complete import complete
from sparsight.stages.measure import fused, name
from sparsight.stages.pictures import pictures_for
from sparsight.stages.progress import Progress, followed, track

RANKING_IMAGES = 1  # layers are ranked by the damage each does alone
COMPLETION_IMAGES = 6
# Rows of our own that combine methods.
COMBINED, WITH_WINDOWS = "sve + early-exit", "sve + sparsevit"


@dataclass(frozen=True)
class Entry:
    """One row of the comparison, before anything is measured."""

    method: str
    setting: str
    trained: bool
    arm: Arm


# Quality of every arm, the first being the dense one: "quality", "relative_error" and its worst picture.
Judge = Callable[[Sequence[Arm]], list[dict[str, float]]]


@followed
@checked
def compare(
    model: nn.Module,
    images: Any,
    plans: Sequence[Plan] = (),
    methods: Sequence[str] | set[str] = (),
    repeats: Count = 7,
    max_images: Count = 8,
    module: str | None = None,
    judge: tuple[str, Judge] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure the dense model, all methods that need no training, and `plans`, on `images`.

    `images`   pictures in any form that `optimize` takes
    `methods`  names of those to compare; none: all that fit the model, and combinations of them
    `judge`    name and function of another quality than the cosine to the dense features
    `progress` is told as by `optimize`
    Returns `protocol`, `rows`, what was `left_out`, by method and with the reason, and which pictures
    were `skipped`.
    """
    model, methods = encoder_in(model, module), set(methods)
    if applied(model):
        raise PlanError("compare starts from the dense model: restore the model first")
    every = (*METHODS, *COMBINATIONS)
    if unknown := sorted(set(methods) - set(every)):
        raise PlanError(f"no method is called {unknown[0]!r}; there are {', '.join(every)}")
    images = Held(pictures_for(model, images, max(max_images, COMPLETION_IMAGES)))
    picture = Reader(images).read(0)[None]
    size = (picture.shape[2], picture.shape[3])
    first = next(model.parameters())
    quality_name, judged = judge or ("cosine to the dense features", by_features(images, max_images))
    with evaluating(model):
        chosen = [method for method in every if not methods or method in methods]
        entries, left_out = line_up(model, images, plans, chosen, size)
        with fused(*(entry.arm.model for entry in entries)):
            like = picture.to(first.device, first.dtype)
            times, counts = measured([entry.arm for entry in entries], like, repeats)
        scores = judged([entry.arm for entry in entries])
    reader = Reader(images)
    used = sum(1 for _ in reader.spread(max_images))
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
        images=used,
    )  # fmt: skip
    skipped = list(reader.skipped.values())
    return {"protocol": protocol, "rows": rows, "left_out": left_out, "skipped": skipped}


def line_up(
    model: nn.Module, images: Images, plans: Sequence[Plan], methods: Iterable[str],
    size: tuple[int, int],
) -> tuple[list[Entry], dict[str, str]]:  # fmt: skip
    """The rows to be, and why a method has none."""
    bench, methods = bench_of(model, images, COMPLETION_IMAGES), list(methods)
    first = next(model.parameters())
    entries = [Entry("dense", "", False, Arm(model))]
    left_out: dict[str, str] = {}
    layers = bench.family.global_layers(model)
    ranked = {"sve", "local-attention", *COMBINATIONS} & set(methods)
    ranking = ranked_layers(bench) if layers and ranked else layers
    for method in methods:
        known, refusals, rows = METHODS.get(method), ["needs training: give a run of it"], len(entries)
        if known and known.changes != "pictures" and not bench.family.layers_with(known.needs, model):
            left_out[method] = UNFIT[known.needs].format(method=method, family=bench.family.name)
            continue
        if known:
            ladder: list[tuple[Settings, ...]] = [(row,) for row in known.config.ladder(ranking)]
        else:
            ladder = COMBINATIONS[method](model, layers)
            refusals = ["the model has no layers for both"]
        for settings in ladder:
            plan = as_plan(settings)
            try:
                plan = resolve(complete(bench, plan), model, bench.family)
                arm = arm_of(model, plan, size)
                if plan.find(SparseViT):  # whether a map has windows enough shows when it runs
                    arm.full_size(Reader(images).read(0)[None].to(first.device, first.dtype))
                entries.append(Entry(plan.name, plan.label, False, arm))
            except SparsightError as error:
                refusals.append(str(error))
        if len(entries) == rows:
            left_out[method] = refusals[-1]
    for plan in plans:
        trained = any(name in plan.recipe for name in ("distillation", "adaptation", "relevance"))
        entries.append(Entry(plan.name, plan.label, trained, arm_of(model, plan, size)))
        left_out.pop(plan.name, None)
    return entries, left_out


def ranked_layers(bench: Bench) -> tuple[int, ...]:
    """The layers with global attention, the one that sparse attention harms least first."""
    layers = bench.family.global_layers(bench.model)
    damage = select.Damage(bench.model, bench.images, RANKING_IMAGES)
    damages = select.damage_of(damage, [SVE(layers=(n,), min_tokens=0) for n in layers])
    return tuple(n for _, n in sorted(zip(damages, layers, strict=True)))


def combined(model: nn.Module, layers: tuple[int, ...]) -> list[tuple[Settings, ...]]:
    """Sparse attention while all tokens are there, and early exit after it; mild ones first."""
    depth = len(family_in(model).blocks(model))
    if len(layers) < depth or depth < 3:
        return []
    exit_ = max(1, depth // 6)
    sparse = SVE(layers=tuple(range(exit_ + 1)), keep=3 / 16, keep_queries=1 / 32, sample_every=32)
    rows = [EarlyExit(after=(exit_,), keep=keep) for keep in (0.45, 0.3)]
    bounded = EarlyExit(after=(exit_,), keep=0.45, score="map-error", bound="calibrated")
    return [(sparse, leaving) for leaving in (*rows, bounded)]


def with_windows(model: nn.Module, layers: tuple[int, ...]) -> list[tuple[Settings, ...]]:
    """Sparse attention in the global blocks and windows dropped in the others; mild ones first."""
    if not layers or not family_in(model).layers_with("windows", model):
        return []
    return [
        (SVE(layers=layers, keep=keep, completion="map"), SparseViT(sparsity=dropped).completed())
        for keep, dropped in ((3 / 16, 0.4), (1 / 8, 0.6))
    ]


COMBINATIONS: dict[str, Callable[[nn.Module, tuple[int, ...]], list[tuple[Settings, ...]]]] = {
    COMBINED: combined, WITH_WINDOWS: with_windows,
}  # fmt: skip


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
