"""Optimize: the whole pipeline, from a model and a folder of images to a plan.

analyze -> select -> (projectors -> distil) -> projectors -> reuse groups -> crossover -> plan
"""

from os import PathLike
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from sparsight.attach import applied, apply, family_in, identity, resolve, restore
from sparsight.errors import PlanError, SparsightError
from sparsight.families import encoder_in
from sparsight.files import check_writable, write_json
from sparsight.images import ImageFolder, Images
from sparsight.methods import SVE, projector_name
from sparsight.plan import LayerReason, Plan
from sparsight.run import LOSSES_FILE, save_plan
from sparsight.stages import select
from sparsight.stages.calibrate import TRUE_FRACTION, Analysis, analyze
from sparsight.stages.crossover import crossover
from sparsight.stages.distil import CHECKPOINT_FILE, Distillation, distil
from sparsight.stages.predict import fit_projectors
from sparsight.stages.route import fit_maps
from sparsight.stages.timing import versions

MAX_ERROR = 0.12  # how far the tokens that stand out may move
REUSE_OVERLAP = 0.6


def optimize(
    model: nn.Module,
    images: Images | str | PathLike[str],
    method: SVE | None = None,
    out: str | PathLike[str] | None = None,
    distillation: Distillation | None = None,
    select_by: Literal["damage", "indicator"] = "damage",
    max_error: float = MAX_ERROR,
    indicator_threshold: float = 0.5,
    reuse_overlap: float | None = REUSE_OVERLAP,
    max_images: int = 16,
    source: str | None = None,
    module: str | None = None,
) -> Plan:
    """Find and prepare a sparse plan for `model`; the model itself is left as it was.

    `method`               settings; layers="auto" has them chosen by `select_by`
    `distillation`         adapt the weights as well (minutes to hours); None: training-free
    `select_by`            "damage": the most layers whose joint relative error of the final features
                           is at most `max_error`; "indicator": s above `indicator_threshold`
    `reuse_overlap`        consecutive layers with at least this overlap share a pattern; None: none do
    `out`                  folder to save the run in, and to go on from if a distillation was interrupted
    `module`               path of the vision encoder inside a larger model, such as "vision_tower"

    Returns the plan; `apply(model, plan, module)` makes the model sparse.
    """
    model = encoder_in(model, module)
    if applied(model):
        raise PlanError("optimize starts from the dense model: call sparsight.restore(model) first")
    folder = Path(out) if out is not None else None
    if folder:
        check_writable(folder)
    images = as_images(images, model)
    config = method or SVE()
    family = family_in(model)
    named = None
    if config.layers != "auto":  # told before any work if they do not fit; projectors come later
        trial = config.model_copy(update={"scorer": "exact", "mlp_keep": 1.0})
        named = resolve(_draft(trial, model, source), model, family).sve.named_layers

    found = analyze(model, images, max_images)
    if folder:
        write_json(folder / "analysis.json", found.model_dump(mode="json"))
    damages, reasons = None, []
    if named is not None:
        layers = named
        reasons.append(f"layers {list(layers)}: named by the user")
    else:
        layers, damages, why = _select(
            model, images, config, found, select_by, max_error, indicator_threshold
        )
        reasons.append(why)
    config = config.model_copy(update={"layers": layers, "groups": ()})
    plan = _draft(config, model, source).with_(
        resolution=found.resolution,
        recipe={"images": len(images), "calibration_images": found.images, "select_by": select_by}
        | ({"module": module} if module else {}),
    )

    plan = plan.with_(weights=_fitted(model, images, config, max_images))
    if distillation is not None:
        plan, losses = distil(model, plan, images, distillation, folder)
        if folder:
            write_json(folder / LOSSES_FILE, losses)
        reasons.append(
            f"distilled for {len(losses)} steps: loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last"
        )
    if plan.weights:
        plan, found = _refitted(plan, model, images, max_images)
        if folder:
            write_json(folder / "analysis-sparse.json", found.model_dump(mode="json"))
    plan = _with_groups(plan, found, reuse_overlap, reasons)
    plan = _with_crossover(plan, model, reasons)
    plan = plan.with_(layers=_layer_reasons(plan.sve, found, damages), reasons=tuple(reasons))
    if folder:
        save_plan(plan, folder)
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    return plan


def as_images(images: Images | str | PathLike[str], model: nn.Module) -> Images:
    """A folder's pictures at the model's own size and normalisation; other images as they are."""
    if not isinstance(images, str | PathLike):
        return images
    cfg = getattr(model, "pretrained_cfg", None) or {}
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is None:
        raise SparsightError(
            "the model does not say which pictures it takes: pass "
            "sparsight.ImageFolder(folder, resolution, mean, std) instead of a folder"
        )
    normal = {key: tuple(cfg[key]) for key in ("mean", "std") if key in cfg}
    return ImageFolder(images, tuple(size), **normal)


def _draft(config: SVE, model: nn.Module, source: str | None) -> Plan:
    return Plan(
        method=config, model=identity(model, family_in(model)), source=source, versions=versions()
    )


def _select(
    model: nn.Module, images: Images, config: SVE, found: Analysis, how: str, limit: float,
    threshold: float,
) -> tuple[tuple[int, ...], dict[int, float] | None, str]:  # fmt: skip
    """The layers to make sparse, the damage of each if it was measured, and why these."""
    if how == "indicator":
        layers = select.by_indicator(found, threshold)
        if not layers:
            best = max(layer.indicator for layer in found.layers)
            raise SparsightError(
                f"no layer's sparsity indicator exceeds {threshold} (the highest is {best:.2f}): lower "
                "the threshold, or select by damage"
            )
        return layers, None, f"layers {list(layers)}: sparsity indicator above {threshold}"
    # The scorer that will run may not be trained yet; the exact map shows what a layer itself can take.
    scorer = "exact" if config.scorer == "linear" else config.scorer
    base = config.at_any_size().model_copy(update={"scorer": scorer, "mlp_keep": 1.0})
    candidates = [layer.layer for layer in found.layers]
    trials = [base.model_copy(update={"layers": (n,)}) for n in candidates]
    damages = dict(zip(candidates, select.damage_of(model, images, trials), strict=True))
    layers, error = select.by_damage(model, images, base, damages, limit)
    if not layers:
        raise SparsightError(
            f"every layer alone moves the final features by more than {limit} (the least: "
            f"{min(damages.values()):.3f}): raise max_error, keep more tokens, or distil"
        )
    why = (
        f"layers {list(layers)}: the most, least harmful first, whose joint relative error of the final "
        f"features stays within {limit} (measured: {error:.4f}, before any distillation)"
    )
    return layers, damages, why


def _refitted(plan: Plan, model: nn.Module, images: Images, max_images: int) -> tuple[Plan, Analysis]:
    """The plan with projectors for the adapted model, and the statistics of that model."""
    apply(model, plan.with_(method=plan.method.at_any_size()))
    try:
        if "distillation" in plan.recipe:
            plan = plan.with_(weights=_fitted(model, images, plan.sve, max_images))
        return plan, analyze(model, images, max_images, projectors_of(plan))
    finally:
        restore(model)


def _fitted(model: nn.Module, images: Images, config: SVE, max_images: int) -> dict[str, Tensor]:
    """What is fitted in closed form, or nearly: projectors, and maps for tokens that skip the MLP."""
    layers, weights = config.named_layers, dict[str, Tensor]()
    if config.scorer == "linear":
        weights |= fit_projectors(model, images, layers, max_images)
    if config.routes and config.mlp_rest == "linear":
        routed = [n for n in layers if config.kept_at(n)[2] < 1]
        weights |= fit_maps(model, images, routed, max_images)
    return weights


def projectors_of(plan: Plan) -> dict[int, Tensor]:
    """The plan's projectors by layer."""
    named = {layer: projector_name(layer) for layer in plan.sve.named_layers}
    return {layer: plan.weights[name] for layer, name in named.items() if name in plan.weights}


def _with_groups(plan: Plan, found: Analysis, least: float | None, reasons: list[str]) -> Plan:
    """Add reuse groups from the measured overlap."""
    if least is None:
        return plan
    groups = select.choose_groups(plan.sve.named_layers, found.overlap_of, least)
    reasons.append(
        f"groups {[list(g) for g in groups]}: consecutive layers whose top sets have at least {least} "
        "in common with that of the group's first layer"
        if groups
        else f"no groups: no consecutive sparse layers have {least} of their top sets in common"
    )
    return plan.with_(method=plan.method.model_copy(update={"groups": groups}))


def _with_crossover(plan: Plan, model: nn.Module, reasons: list[str]) -> Plan:
    """Set the token count below which layers run dense, if this model's can be measured here."""
    tokens, rows = crossover(model, plan)
    if tokens is None:
        reasons.append(f"dense below {plan.method.min_tokens} tokens: the default, not measured here")
        return plan
    reasons.append(f"dense below {tokens} tokens: from there on sparse was faster on this machine")
    recipe: dict[str, Any] = plan.recipe | {"crossover": rows}
    return plan.with_(method=plan.method.model_copy(update={"min_tokens": tokens}), recipe=recipe)


def _layer_reasons(
    config: SVE, found: Analysis, damages: dict[int, float] | None
) -> tuple[LayerReason, ...]:
    """What is known of each layer that can become sparse, and what became of it."""
    followers, at = config.followers(), found.kept_fractions.index(TRUE_FRACTION)
    rows = []
    for place, layer in enumerate(found.layers):
        n = layer.layer
        sparse = n in config.named_layers
        role = f"reuses layer {followers[n]}" if n in followers else "predicts" if sparse else "dense"
        rows.append(
            LayerReason(
                layer=n, sparse=sparse, role=role, indicator=layer.indicator,
                damage=damages[n] if damages else None,
                overlap=found.overlap[place - 1][place] if place else None,
                recall={k: curve[at] for k, curve in layer.recall.items()} if sparse else {},
            )
        )  # fmt: skip
    return tuple(rows)
