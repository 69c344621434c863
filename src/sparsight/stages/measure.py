"""Measure: dense against sparse, in one run: time, memory, FLOPs, and how far the features moved."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from sparsight.arguments import checked
from sparsight.attach import applied, apply, dense_calls, family_in
from sparsight.data import Count, Sides, size_of
from sparsight.errors import NotFiniteError, PlanError
from sparsight.families import encoder_in
from sparsight.images import Images, Reader, check_resolution, named
from sparsight.modes import evaluating
from sparsight.ops import fidelity
from sparsight.plan import Plan
from sparsight.stages import timing
from sparsight.stages.fallback import fallback_notes
from sparsight.stages.kept import counted, depends_on_picture
from sparsight.stages.pictures import noise, pictures_for
from sparsight.stages.progress import Progress, followed, track
from sparsight.stages.varied import Varied

TIMED_ON_NOISE = (
    "how much is kept depends on the picture here, and noise was timed, of which more may be kept than "
    "of any picture: give pictures for what yours cost"
)


@followed
@checked
def measure(
    model: nn.Module,
    plan: Plan,
    images: Any = None,
    resolutions: Sequence[Sides] = (1024,),
    batches: Sequence[Count] = (1,),
    repeats: Count = 7,
    max_images: Count = 16,
    module: str | None = None,
    engine: nn.Module | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare `model` as it is (dense) with `plan` applied to a copy of it.

    `images` are pictures in any form that `optimize` takes, each of `resolutions` (height, width) or a
    square's side.  `module` is the path of the vision encoder inside a larger model; the encoder alone
    is measured.  `engine` stands for the plan applied where an exported file is the sparse arm
    (exports/standin.py): PyTorch does not see its work and memory.  `progress` is told as by `optimize`.
    Returns `protocol`, `cases` (one for each resolution, batch size and arm) and, if there are images,
    `fidelity` of the final features at the images' own resolution.  Where counts depend on the picture,
    as under a bound, the images are what is timed, those that keep a middling share; `kept` has the
    spread of the shares, and `by_count` what the picture costs that keeps least, and most.
    """
    model = encoder_in(model, module)
    if applied(model):
        raise PlanError("measure compares a dense model with a plan: restore the model first")
    family = family_in(model)
    sizes = [size_of(sides) for sides in resolutions]
    for size in sizes:
        check_resolution(size, family.patch_px(model))
    if images is not None:
        images = pictures_for(model, images, max_images, plan.resolution)
    first = next(model.parameters())
    with evaluating(model):
        arms = {"dense": model, "sparse": engine or apply(copy.deepcopy(model), plan)}
        moved, seen = None, None
        if images is not None:
            moved = compare_features(model, arms["sparse"], images, max_images)
            seen = Varied.of(images, moved["by_image"]) if "kept" in moved else None
        with fused(*arms.values()):
            cases = [
                case
                for size in sizes
                for batch in batches
                for case in _cases(arms, size, batch, repeats, first, engine is None, seen)
            ]
            costs = seen.costs(arms["sparse"], repeats, first) if seen else None
        result: dict[str, Any] = {
            "protocol": timing.protocol(
                first.device, first.dtype, repeats=repeats,
                resolution=[name(size) for size in sizes], batch=list(batches),
                plan=as_applied(arms["sparse"]).label, source=plan.source,
            ),
            "cases": cases,
            "notes": [note for size in sizes for note in fallback_notes(arms["sparse"], size)],
        }  # fmt: skip
        if calls := dense_calls(arms["sparse"]):
            result["dense_calls"] = dict(calls)  # of sparse layers, by reason
        if moved is not None:
            result["fidelity"] = moved
            result["notes"] += moved.pop("notes")
        if costs is not None:
            result["by_count"] = costs
        elif depends_on_picture(arms["sparse"]):
            result["notes"].append(TIMED_ON_NOISE)
    return result


def as_applied(sparse: nn.Module) -> Plan:
    """The plan of a changed model, with its layers named."""
    state = applied(sparse)
    assert state is not None
    return state.plan


def _cases(
    arms: dict[str, nn.Module],
    resolution: tuple[int, int],
    batch: int,
    repeats: int,
    like: torch.Tensor,
    looked_into: bool,
    seen: Varied | None,
) -> list[dict[str, Any]]:
    """One resolution and batch size, every arm; on pictures `seen` where counts depend on them."""
    timed_on: dict[str, Any] = {}
    if seen is None:
        picture = noise(arms["dense"], resolution, batch)
    else:
        picture = seen.pictures(seen.middle(batch), resolution, like)
        with torch.inference_mode(), counted(arms["sparse"]) as counts:
            family_in(arms["sparse"]).features(arms["sparse"], picture)
        timed_on = {"kept": {name: share["median"] for name, share in counts.spread().items()}}
    calls = {
        name: lambda model=model: family_in(model).features(model, picture)
        for name, model in arms.items()
    }
    times = timing.interleave(calls, repeats, like.device, f"Measuring {name(resolution)}")
    rows: list[dict[str, Any]] = []
    for arm, call in calls.items():
        row = timing.summary(times[arm])
        rows.append(
            {"resolution": name(resolution), "batch": batch, "arm": arm}
            | (timed_on if arm == "sparse" else {})
            | row
            | {"images_per_s": 1e3 * batch / row["latency_ms"]}
            | (_work(call, like) if looked_into else {"peak_memory_mb": None, "gflops": None})
        )
    for row in rows:
        row["speedup"] = rows[0]["latency_ms"] / row["latency_ms"]
    return rows


def _work(call: Callable[[], Any], like: torch.Tensor) -> dict[str, Any]:
    """Memory, FLOPs and where the time goes, of one call of PyTorch."""
    return {
        "peak_memory_mb": timing.peak_memory_mb(call, like.device),
        "gflops": timing.gflops(call),
        "shares": timing.shares(call, like.device),
    }


def compare_features(
    dense: nn.Module, sparse: nn.Module, images: Images, max_images: int
) -> dict[str, Any]:
    """Relative error and cosine of the final features: the mean, and the worst image by its place.

    Where counts depend on the picture, the share of each that was `kept`, and the spread; else not.
    """
    reader = Reader(images)
    like = next(dense.parameters())
    errors: list[float] = []
    cosines: list[float] = []
    places: list[int] = []
    with evaluating(dense), evaluating(sparse), counted(sparse) as counts:
        for place, picture in track(
            reader.placed(max_images), "Comparing features", min(max_images, len(images))
        ):
            places.append(place)
            batch = picture[None].to(like.device, like.dtype)
            wanted, got = (family_in(model).features(model, batch) for model in (dense, sparse))
            if not (torch.isfinite(wanted).all() and torch.isfinite(got).all()):
                raise NotFiniteError(
                    f"NaN or infinity in the final features of image {len(errors)}: check the weights"
                )
            errors.append(fidelity.relative_error(got, wanted).item())
            cosines.append(fidelity.cosine(got, wanted).item())
    rows: list[dict[str, Any]] = [
        {"place": place, "name": named(images, place), "relative_error": error, "cosine": cosine}
        for place, error, cosine in zip(places, errors, cosines, strict=True)
    ]
    found: dict[str, Any] = {"notes": counts.notes()}
    if counts.pictures:
        found["kept"] = counts.spread()
        for row, kept in zip(rows, counts.pictures, strict=True):
            row["kept"] = kept
    return found | {
        "images": len(errors),
        "skipped": list(reader.skipped.values()),
        "resolution": name(tuple(picture.shape[1:])),
        "relative_error": sum(errors) / len(errors),
        "relative_error_worst": max(errors),
        "relative_error_worst_image": errors.index(max(errors)),
        "cosine": sum(cosines) / len(cosines),
        "cosine_worst": min(cosines),
        "cosine_worst_image": cosines.index(min(cosines)),
        "by_image": rows,
    }


def name(resolution: tuple[int, ...]) -> str:
    """As the command line writes it: height x width."""
    return f"{resolution[0]}x{resolution[1]}"


@contextmanager
def fused(*models: nn.Module) -> Iterator[None]:
    """While in here, models waste nothing and attention is the fused kernel: a fair dense baseline."""
    modules = {module for model in models for module in model.modules()}
    slow: list[Any] = [module for module in modules if getattr(module, "fused_attn", True) is False]
    configs: dict[int, Any] = {  # transformers keeps the choice in configs that modules share
        id(module.config): module.config
        for module in modules
        if getattr(getattr(module, "config", None), "_attn_implementation", None) == "eager"
    }
    try:
        with ExitStack() as lean:
            for model in models:
                lean.enter_context(family_in(model).lean(model))
            for module in slow:
                module.fused_attn = True
            for config in configs.values():
                config._attn_implementation = "sdpa"
            yield
    finally:
        for module in slow:
            module.fused_attn = False
        for config in configs.values():
            config._attn_implementation = "eager"
