"""The model of an encoder, and what tells its features from those of any other."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.attach import apply
from sparsight.encode.pictures import RESAMPLING
from sparsight.encode.settings import EncoderSettings
from sparsight.errors import SparsightError
from sparsight.families import encoder_in
from sparsight.models import load_model
from sparsight.plan import Plan
from sparsight.run import is_run, load

DECIDING = ("weights", "plan", "size", "normalisation", "resampling", "precision")
USUAL_RESOLUTION = (1024, 1024)  # of a model without a run, as in the other verbs


@dataclass(frozen=True)
class Loaded:
    """A model ready to encode: sparse if there is a plan, of the precision asked for, in its place."""

    model: nn.Module
    plan: Plan | None
    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resolution: tuple[int, int] | None  # None: each picture at its own size
    random_weights: bool
    notes: tuple[str, ...]  # what was assumed of it, for the user to read
    hashes: dict[str, str | None]


def open_model(settings: EncoderSettings) -> Loaded:
    """Load MODEL or a run with its model; PlanError if the plan was made for another one."""
    run = settings.model
    plan = load(run) if is_run(run) else None
    if plan is not None and (plan.source is None or plan.resolution is None):
        raise SparsightError(f"{run} does not say which model it was made for, so it cannot be loaded")
    if plan is None and settings.dense:
        raise SparsightError(f"--dense leaves a run's plan out, and {settings.model} is no run")
    source = settings.model if plan is None else str(plan.source)
    resolution = settings.resolution or (plan.resolution if plan else None) or USUAL_RESOLUTION
    side = settings.usual_side_px if settings.max_tokens and plan is None else None
    checkpoint = Path(settings.checkpoint) if settings.checkpoint else None
    loaded = load_model(
        source, (side, side) if side else (plan.resolution if plan else None) or resolution,
        settings.pretrained, checkpoint,
    )  # fmt: skip
    module = settings.module or (plan.recipe.get("module") if plan else None)
    model = encoder_in(loaded.model, module)
    hashes = {"weights": tensors_hash(model.state_dict()), "plan": None}
    if plan is not None and not settings.dense:
        hashes["plan"] = plan_hash(plan)
        model = apply(model, plan)
    place = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = model.eval().to(place, getattr(torch, settings.dtype))
    except (RuntimeError, AssertionError) as error:  # the second: a PyTorch without GPUs
        raise SparsightError(
            f"the model cannot be put on {place}: {str(error).splitlines()[0]}"
        ) from None
    return Loaded(
        model, None if settings.dense else plan, source, tuple(loaded.mean), tuple(loaded.std),
        None if settings.max_tokens else resolution, loaded.random_weights, loaded.notes, hashes,
    )  # fmt: skip


def tensors_hash(tensors: dict[str, Tensor]) -> str:
    """Of every name, shape, type and value."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def plan_hash(plan: Plan) -> str:
    """Of what a plan does, and not of how it came to be."""
    methods = json.loads(plan.to_json())["data"]["methods"]
    text = json.dumps(methods, sort_keys=True) + tensors_hash(plan.weights)
    return hashlib.sha256(text.encode()).hexdigest()


def facts_of(settings: EncoderSettings, loaded: Loaded, outputs: tuple[str, ...]) -> dict[str, Any]:
    """What decides the features, and which are kept: in one sink it is the same for all rows."""
    size = loaded.resolution
    return {
        **loaded.hashes,
        "size": f"{size[0]}x{size[1]}" if size else f"own, at most {settings.max_tokens} tokens",
        "normalisation": [list(loaded.mean), list(loaded.std)],
        "resampling": RESAMPLING,
        "precision": settings.dtype,
        "outputs": list(outputs),
        "taps": list(settings.taps),
        "map precision": settings.map_dtype if "maps" in outputs else None,
    }


def fingerprint(facts: dict[str, Any]) -> bytes:
    """32 bytes that stand for what decides the features, whichever of them are kept."""
    deciding = {key: facts[key] for key in DECIDING}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).digest()
