"""The steps of the pipeline, each (bench, plan) -> plan; a method names those it needs.

analyze      where is attention sparse, and how linear is the rest of the network?
select       which layers become sparse
group        which of them share a pattern
project      the linear projectors that rank in place of Q K^T
relevance    the networks that rank by learned relevance
complete     what stands in the place of what is skipped
distil       adapt the weights to sparse attention (if it is asked for)
adapt        adapt the weights to dropped windows (if it is asked for)
refit        the projectors for the adapted weights
crossover    from how many tokens on the plan pays
explain      what is known of each layer
"""

from collections.abc import Callable

from sparsight.errors import SparsightError
from sparsight.fit import free_layers
from sparsight.methods import SPOT, SVE, SparseViT, method_of, tensor_name
from sparsight.plan import LayerReason, Plan
from sparsight.stages import select
from sparsight.stages.adapt import adapt
from sparsight.stages.bench import Bench
from sparsight.stages.calibrate import TRUE_FRACTION, Analysis, analyze
from sparsight.stages.complete import complete
from sparsight.stages.crossover import crossover
from sparsight.stages.distil import distil
from sparsight.stages.predict import fit_projectors
from sparsight.stages.relevance import fit_relevance

Step = Callable[[Bench, Plan], Plan]


def analyzed(bench: Bench, plan: Plan) -> Plan:
    """Attention statistics of the dense model; the plan's resolution."""
    found = analyze(bench.model, bench.images, bench.max_images)
    bench.found["analysis"] = found.model_dump(mode="json")
    return plan.with_(resolution=found.resolution)


def selected(bench: Bench, plan: Plan) -> Plan:
    """SVE's layers, if they are to be chosen."""
    config, how = plan.sve, bench.how
    if config.layers != "auto":
        return _because(plan, f"layers {list(config.named_layers)}: named by the user")
    candidates = free_layers(plan, bench.model, bench.family)
    if how.select_by == "indicator":
        layers, why = _by_indicator(_analysis(bench), candidates, how.indicator_threshold)
    else:
        layers, why = _by_damage(bench, config, candidates)
    return _because(plan.changed(config.model_copy(update={"layers": layers})), why)


def _by_indicator(
    found: Analysis, candidates: tuple[int, ...], threshold: float
) -> tuple[tuple[int, ...], str]:
    layers = tuple(n for n in select.by_indicator(found, threshold) if n in candidates)
    if not layers:
        best = max(layer.indicator for layer in found.layers if layer.layer in candidates)
        raise SparsightError(
            f"no layer's sparsity indicator exceeds {threshold} (the highest is {best:.2f}): lower "
            "the threshold, or select by damage"
        )
    return layers, f"layers {list(layers)}: sparsity indicator above {threshold}"


def _by_damage(bench: Bench, config: SVE, candidates: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    # What is fitted is not there yet; the exact map shows what a layer itself can take.
    score, limit = "exact" if config.score == "linear" else config.score, bench.how.max_error
    base = config.at_any_size().model_copy(update={"score": score, "completion": "none"})
    trials = [base.model_copy(update={"layers": (n,)}) for n in candidates]
    judged = select.Damage(bench.model, bench.images, select.IMAGES)
    damages = dict(zip(candidates, select.damage_of(judged, trials), strict=True))
    bench.found["damages"] = {str(layer): damage for layer, damage in damages.items()}
    layers, error = select.by_damage(judged, base, damages, limit)
    if not layers:
        raise SparsightError(
            f"every layer alone moves the final features by more than {limit} (the least: "
            f"{min(damages.values()):.3f}): raise max_error, keep more tokens, or distil"
        )
    return layers, (
        f"layers {list(layers)}: the most, least harmful first, whose joint relative error of the final "
        f"features stays within {limit} (measured: {error:.4f}, before anything was fitted)"
    )


def grouped(bench: Bench, plan: Plan) -> Plan:
    """Reuse groups from the measured overlap, if none are named."""
    least, config = bench.how.reuse_overlap, plan.sve
    if least is None or config.groups:
        return plan
    groups = select.choose_groups(config.named_layers, _analysis(bench).overlap_of, least)
    why = (
        f"groups {[list(g) for g in groups]}: consecutive layers whose top sets have at least {least} "
        "in common with that of the group's first layer"
        if groups
        else f"no groups: no consecutive sparse layers have {least} of their top sets in common"
    )
    return _because(plan.changed(config.model_copy(update={"groups": groups})), why)


def projected(bench: Bench, plan: Plan) -> Plan:
    """Projectors of the layers that rank by them, for the model with the plan's weights."""
    if plan.sve.score != "linear":
        return plan
    weights = fit_projectors(bench.model, bench.images, plan.sve.named_layers, bench.max_images)
    return plan.with_(weights=weights)


def related(bench: Bench, plan: Plan) -> Plan:
    """SPOT's networks, unless the plan brings them."""
    config = plan.one(SPOT).resolved(
        bench.family.global_layers(bench.model), len(bench.family.blocks(bench.model))
    )
    names = {tensor_name("spot", stage, "inner.weight") for stage in config.named_stages}
    if names <= plan.weights.keys():
        return plan
    plan, losses = fit_relevance(bench.model, plan, bench.images, bench.how.relevance, bench.folder)
    bench.found["losses"] = losses
    return _because(plan, f"relevance trained for {len(losses)} steps: {_course(losses)}")


def completed(bench: Bench, plan: Plan) -> Plan:
    """Maps and what is fitted with them."""
    plan = complete(bench, plan)
    rows = plan.recipe.get("completion", ())
    if not rows:
        return plan
    repaired = sorted(100 * (1 - row["left"]) for row in rows)
    return _because(
        plan,
        f"{len(rows)} maps stand in the place of what is skipped: each repairs {repaired[0]:.0f} to "
        f"{repaired[-1]:.0f} % of the square of what is missing there",
    )


def distilled(bench: Bench, plan: Plan) -> Plan:
    """Adapted weights, if a distillation is asked for."""
    if bench.how.distillation is None:
        return plan
    plan, losses = distil(bench.model, plan, bench.images, bench.how.distillation, bench.folder)
    bench.found["losses"] = losses
    plan = _because(plan, f"distilled for {len(losses)} steps: {_course(losses)}")
    ending = plan.recipe["distillation"].get("ending")
    if ending is None:
        return plan
    first = ending["errors"][0][1]
    return _because(
        plan,
        f"the distillation ended because {ending['ended']}: the error on {ending['pictures']} pictures "
        f"held out was {first:.4f} at first and lowest, {ending['lowest']:.4f}, after "
        f"{ending['lowest_at_step']} steps, whose weights were kept",
    )


def adapted(bench: Bench, plan: Plan) -> Plan:
    """Weights adapted to dropped windows, if that is asked for."""
    if bench.how.adaptation is None or plan.find(SparseViT) is None:
        return plan
    plan, losses = adapt(bench.model, plan, bench.images, bench.how.adaptation, bench.folder)
    bench.found["losses"] = losses
    return _because(plan, f"adapted for {len(losses)} steps: {_course(losses)}")


def refitted(bench: Bench, plan: Plan) -> Plan:
    """Projectors for adapted weights, and how well scores find what they should in the sparse model."""
    config, trained = plan.sve, bench.how.distillation is not None
    if not trained and config.score != "linear":
        return plan
    sparse = bench.sparse(plan)
    if trained and config.score == "linear":
        weights = fit_projectors(sparse, bench.images, config.named_layers, bench.max_images)
        plan = plan.with_(weights=weights)
    projectors = {
        layer: plan.weights[name]
        for layer in config.named_layers
        if (name := tensor_name("sve", layer, "projector")) in plan.weights
    }
    found = analyze(sparse, bench.images, bench.max_images, projectors)
    bench.found["analysis-sparse"] = found.model_dump(mode="json")
    return plan


def crossed(bench: Bench, plan: Plan) -> Plan:
    """The token count below which layers run dense, if it can be measured here."""
    sized = [method for method in plan.methods if "crossover" in method_of(method).steps]
    tokens, rows = crossover(bench.model, plan.with_(methods=sized))
    if tokens is None:
        least = max(method.min_tokens for method in sized)
        return _because(plan, f"dense below {least} tokens: the default, not measured here")
    methods = [
        method.model_copy(update={"min_tokens": tokens}) if method in sized else method
        for method in plan.methods
    ]
    plan = plan.with_(methods=methods, recipe=plan.recipe | {"crossover": rows})
    return _because(
        plan, f"dense below {tokens} tokens: from there on sparse was faster on this machine"
    )


def explained(bench: Bench, plan: Plan) -> Plan:
    """What is known of each layer that can have sparse attention, and what became of it."""
    config, damages = plan.sve, bench.found.get("damages", {})
    found = _analysis(bench, "analysis-sparse" if "analysis-sparse" in bench.found else "analysis")
    followers, at = config.followers(), found.kept_fractions.index(TRUE_FRACTION)
    rows = []
    for place, layer in enumerate(found.layers):
        n = layer.layer
        sparse = n in config.named_layers
        role = f"reuses layer {followers[n]}" if n in followers else "predicts" if sparse else "dense"
        rows.append(
            LayerReason(
                layer=n, sparse=sparse, role=role, indicator=layer.indicator,
                damage=damages.get(str(n)),
                overlap=found.overlap[place - 1][place] if place else None,
                recall={k: curve[at] for k, curve in layer.recall.items()} if sparse else {},
            )
        )  # fmt: skip
    return plan.with_(layers=tuple(rows))


STEPS: dict[str, Step] = {
    "analyze": analyzed, "select": selected, "group": grouped, "project": projected,
    "relevance": related, "complete": completed, "distil": distilled, "adapt": adapted,
    "refit": refitted, "crossover": crossed, "explain": explained,
}  # fmt: skip


def steps_of(plan: Plan) -> list[str]:
    """Those that any of the plan's methods names, in the order above."""
    wanted = {name for config in plan.methods for name in method_of(config).steps}
    return [name for name in STEPS if name in wanted]


def _analysis(bench: Bench, name: str = "analysis") -> Analysis:
    return Analysis.model_validate(bench.found[name])


def _because(plan: Plan, why: str) -> Plan:
    return plan.with_(reasons=(*plan.reasons, why))


def _course(losses: list[float]) -> str:
    return f"loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last"
