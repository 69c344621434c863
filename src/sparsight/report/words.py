"""What a plan does, in sentences: from its JSON, which may be of another version."""

from typing import Any

from sparsight.report.data import Run

SHOWN = {  # what a map stands in for, by method: the words for where that is
    "sve": "{layer}, attention", "mlp-routing": "{layer}, MLP", "sparsevit": "{layer}, windows",
    "early-exit": "{layer} and all after it", "spot": "{layer} and all after it",
    "local-attention": "{layer}, attention", "density-peaks": "the last block, merged tokens",
    "mutual-pairs": "the last block, merged tokens", "lower-resolution": "the final features",
}  # fmt: skip


def done(run: Run) -> list[str]:
    """What was done and why."""
    if run.plan is None:
        return []
    told, depth = [], (run.plan.get("model") or {}).get("depth")
    if len(run.methods) > 1:
        told.append(f"Combined: {' and '.join(run.methods)}.")
    for name, config in run.methods.items():
        told += SENTENCES.get(name, _settings)(name, config, depth)
    least = {name: config.get("min_tokens") for name, config in run.methods.items()}
    if len(set(least.values())) == 1:
        if count := next(iter(least.values())):
            told.append(f"Pictures of fewer than {count} tokens run dense.")
    else:
        told += [f"Fewer than {n} tokens run dense, without {name}." for name, n in least.items() if n]
    return told + [reason[0].upper() + reason[1:] + "." for reason in run.plan.get("reasons", ())]


def _sve(name: str, config: dict[str, Any], depth: int | None) -> list[str]:
    layers = config["layers"]
    if isinstance(layers, str):
        return _settings(name, config, depth)
    one, of = len(layers) == 1, f" of {depth}" if depth else ""
    count = f"{len(layers)}{of} layer{'s' * (bool(depth) or not one)} {'is' if one else 'are'}"
    told = [
        f"{count} sparse ({spans(layers)}): there a kept share of the tokens "
        f"sees all, and all others see only the kept ones. Keys kept: {percent(config['keep'])}; "
        f"queries that see all: {percent(config.get('keep_queries') or config['keep'])}. Tokens are "
        f"ranked by {config['score']}."
    ]
    if config.get("completion") == "map":
        told.append("What the other queries miss is completed by a linear map, fitted on pictures.")
    if config.get("groups"):
        runs = ", ".join(spans(group) for group in config["groups"])
        told.append(f"Layers that share one ranking: {runs}.")
    return told


def _mlp_routing(name: str, config: dict[str, Any], depth: int | None) -> list[str]:
    layers = config["layers"]
    where = "every layer" if isinstance(layers, str) else f"layers {spans(layers)}"
    rest = "a linear map instead, fitted on pictures" if _maps(config) else "nothing in its place"
    share = f"{percent(config['keep'])} of the tokens go through the MLP, chosen by {config['score']}"
    if isinstance(bound := config.get("bound"), float):
        share = f"those tokens go through the MLP whose predicted error is above {_told(bound)}"
    elif bound:
        share += ", fewer or more as the picture needs"
    return [f"In {where} {share}; the others get {rest}."]


def _early_exit(name: str, config: dict[str, Any], depth: int | None) -> list[str]:
    after = config.get("after")
    where = f"layer{'s' * (len(after) > 1)} {spans(after)}" if after else "a sixth of the layers"
    if isinstance(config.get("bound"), list):
        share = f"those stay whose predicted error is above {_told(config['bound'])}"
    else:
        share = f"{percent(config['keep'])} of the tokens stay, chosen by {config['score']}"
        share += ", fewer or more as the picture needs" * (config.get("bound") is not None)
        share += _recovered(config)
    return [f"After {where} tokens leave the network: {share}; {_ended(config)}."]


def _spot(name: str, config: dict[str, Any], depth: int | None) -> list[str]:
    return [
        f"Before {_stages(config)} tokens leave the network: a trained network chooses the "
        f"{percent(config['rho'])} of those left that stay; {_ended(config)}."
    ]


def _pruning(name: str, config: dict[str, Any], depth: int | None) -> list[str]:
    score = config.get("score", "class-attention")
    if score == "vtc-cls":
        score += f" over {config.get('history')} layers"
    return [
        f"In {_stages(config)} {percent(config['keep'])} of the tokens there go on, chosen by "
        f"{score}{_recovered(config)}; {_ended(config)}."
    ]


def _asvit(name: str, config: dict[str, Any], depth: int | None) -> list[str]:
    return [
        f"Before {_stages(config)} tokens below a threshold leave the network, as many as leave "
        f"{percent(config['budget'])} of the dense layers' operations in the mean over the pictures "
        f"it was calibrated on; {_ended(config)}."
    ]


def _stages(config: dict[str, Any]) -> str:
    """Where tokens leave."""
    stages = config.get("stages")
    return f"layer{'s' * (len(stages) > 1)} {spans(stages)}" if stages else "three of the layers"


def _recovered(config: dict[str, Any]) -> str:
    """Who goes on whatever the score says."""
    every = config.get("recover")
    return f" but for one in {every} of the others, evenly spread" if every else ""


def _ended(config: dict[str, Any]) -> str:
    """What becomes of tokens that have left."""
    if not _maps(config):
        return "the others keep their last value"
    taps = f", in the results of layers {spans(config['taps'])} too" if config.get("taps") else ""
    return f"the others are finished by a linear map, fitted on pictures{taps}"


def _sparsevit(name: str, config: dict[str, Any], depth: int | None) -> list[str]:
    rest = "; a linear map stands in for these, fitted on pictures" if _maps(config) else ""
    kind = "small activations"
    if (score := config.get("score", "magnitude")) != "magnitude":  # version 1 had no other
        kind = f"a low score ({score})"
    if isinstance(bound := config.get("bound"), float):
        kind = f"a predicted error below {_told(bound)}"
    elif bound:
        rest += "; fewer or more as the picture needs"
    return [f"Windows of {kind} skip whole blocks{rest}; see the pictures."]


def _settings(name: str, config: dict[str, Any], depth: int | None) -> list[str]:
    settings = [
        f"{key.replace('_', ' ')} {_told(value)}"
        for key, value in config.items()
        if value and key != "min_tokens"
    ]
    return [f"Method: {name}, with {'; '.join(settings)}."]


SENTENCES = {
    "sve": _sve, "mlp-routing": _mlp_routing, "early-exit": _early_exit, "spot": _spot,
    "sparsevit": _sparsevit, "cls-topk": _pruning, "asvit": _asvit,
}  # fmt: skip


def place_of(row: dict[str, Any]) -> str:
    """Where a map stands in for what is skipped: a row of the recipe's completion in words."""
    return SHOWN.get(row["method"], "{layer}").format(layer=row["layer"])


def spans(layers: list[int]) -> str:
    """[3, 4, 5, 8] as "3-5, 8"."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and parts[-1][-1] == layer - 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


def percent(value: Any) -> str:
    """A share, or the range of several."""
    values = sorted(set(value)) if isinstance(value, list) else [value]
    return " to ".join(f"{100 * v:.3g} %" for v in values)


def _maps(config: dict[str, Any]) -> bool:
    return config.get("completion") == "map"


def _told(value: Any) -> str:
    """A setting in words: whole runs of layers as spans, numbers short."""
    if isinstance(value, list):
        whole = all(isinstance(n, int) for n in value)
        return spans(value) if whole else ", ".join(map(_told, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
