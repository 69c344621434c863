"""The tables of all methods and of all scores: from the registries, and from results that are there."""

import importlib
import json
from pathlib import Path
from typing import Any, get_args

from benchmarks.tables.markdown import rows

import sparsight
from sparsight.errors import PlanError
from sparsight.exports.checks import check_plan
from sparsight.exports.shapes import Shapes
from sparsight.methods import METHODS, Method
from sparsight.plan import Plan
from sparsight.scores import NEEDS, SCORES

RESULTS = Path(__file__).parents[1] / "results"
OWN, UNKNOWN = "ours", "not measured"
PAPERS = {  # by method or score
    "lower-resolution": "-", "sve": "SVE", "spot": "SPOT",
    "sparsevit": "SparseViT, 2303.17605", "tome": "ToMe, 2210.09461", "cls-topk": "EViT, 2202.07800",
    "local-attention": "JetViT, 2605.26636, and SparseSAM-style, 2605.17633",
    "bypass": "ToSA-style, 2406.08816", "density-peaks": "idea of AiluRus, 2311.01197",
    "mutual-pairs": "MPM-style, 2604.05718",
    "asvit": "AS-ViT, 2209.13802", "exact": "SVE", "sampled": OWN, "linear": "SVE",
    "class-attention": "EViT, 2202.07800", "vtc-cls": "VTC-CLS, 2412.05819",
    "as-vit": "AS-ViT, 2209.13802", "contribution": "criterion of CAPA, 2602.00247",
    "contribution-bound": OWN, "magnitude": "SparseViT, 2303.17605", "relevance": "SPOT",
    "diversity": "ToDRE stage 1, version 2, 2505.18757", "diversity-rounds": OWN,
    "transport": "TopV-style, 2503.18278",
}  # fmt: skip
WORDS = {  # of scores
    "exact": "average attention, from every query",
    "sampled": "the same, from one patch query in `sample_every`",
    "linear": "the same, predicted by a trained projector",
    "class-attention": "attention of the class token, mean over heads",
    "vtc-cls": "the same, mean over the last `history` layers",
    "as-vit": "the same, heads weighted by how strong they are at the token",
    "contribution": "norm of attention x value x output projection, mean over the queries of `sampled`",
    "contribution-bound": "its upper bound, as if heads never cancelled",
    "standout": "squared distance from the mean patch token",
    "magnitude": "mean of the absolute values",
    "map-error": "log of the error that the map leaves, predicted by ridge regression on [n, n^2, 1]",
    "relevance": "a trained network of the token and of attention statistics",
    "diversity": "greedy max-sum: next is the token of the least sum of cosines with those chosen",
    "diversity-rounds": "the same in 16 rounds of several tokens each",
    "lattice": "none: tokens at even distances of the grid",
    "transport": "what a token supplies in an optimal transport to the tokens after an attention",
}
LEFT = {  # in the place of what is skipped, where there is no choice
    "lower-resolution": "enlarged features", "tome": "the group's value", "cls-topk": "last value",
}  # fmt: skip
RANKS = {
    "local-attention": "places",
    "density-peaks": "density and distance",
    "mutual-pairs": "likeness of tokens",
    "asvit": "as-vit",
    "spot": "relevance",
    "tome": "likeness of keys",
}  # without a choice
# The first that has a method tells.
MEASURED = ("compare-demo.json", "patterns-cpu.json", "scores-cpu.json", "swin-cpu.json")
POINT = 0.01  # of mIoU: what a row may lose to be the one that is shown
SIZES: dict[str, Any] = {"smallest": (256, 256), "patch_px": (16, 16)}


def methods() -> str:
    """One row for each method."""
    header = [
        "method", "what it does", "paper", "acts on", "score", "left in place", "dense features",
        "prepared by", "exports", "works on", "figure",
    ]  # fmt: skip
    lines = [
        [
            f"`{name}`", _sentence(method), PAPERS.get(name, OWN), _acts(method), _ranks(method),
            _left(method), _dense(method), _prepared(method), _exports(method), _hosts(method),
            _figure(method),
        ]
        for name, method in METHODS.items()
    ]  # fmt: skip
    return rows(header, lines, words=len(header))


def scores() -> str:
    """One row for each score."""
    header = ["score", "what it is", "source", "needs", "ranks in", "exports"]
    lines = []
    for name, score in SCORES.items():
        needs = sorted(NEEDS[need] for need in score.needs)
        users = [f"`{m.name}`" for m in METHODS.values() if _can_rank(m) and score.needs <= m.provides]
        if name == "relevance":
            users = ["`spot`"]
        line = [f"`{name}`", WORDS[name], PAPERS.get(name, OWN), ", ".join(needs), ", ".join(users)]
        lines.append([*line, "no" if score.no_graph else "yes"])
    return rows(header, lines, words=len(header))


def _can_rank(method: Method) -> bool:
    return "score" in method.config.model_fields


def _sentence(method: Method) -> str:
    """The first line of the method's folder, without its name."""
    module = importlib.import_module(method.config.__module__.rpartition(".")[0])
    return (module.__doc__ or "").split("\n")[0].partition(": ")[2].rstrip(".")


def _acts(method: Method) -> str:
    if method.needs == "windows":
        return "windows"
    return {"attention": "pairs of attention", "mlp": "the MLP", "block": "tokens"}.get(
        method.changes, method.changes
    )


def _ranks(method: Method) -> str:
    """Its score by default; many rank by others too."""
    default = method.config.model_fields.get("score")
    found = default.default if default else RANKS.get(method.name, "")
    return f"`{found}`" if found in SCORES else found or "-"


def _dense(method: Method) -> str:
    """Of which tokens the features are those of the whole network."""
    if method.needs == "windows":
        return "of the kept windows"
    kinds = {"block": "of those that go on", "pictures": "of a coarser grid"}
    return kinds.get(method.changes, "of all tokens")


def _left(method: Method) -> str:
    """The completions there are, the default first."""
    field = method.config.model_fields.get("completion")
    if field is None:
        return LEFT.get(method.name, "-")
    words = {
        "none": "nothing",
        "last": "last value",
        "map": "linear map",
        "residual": "the group's value and a token's own rest",
    }
    choices = sorted(get_args(field.annotation), key=lambda choice: choice != field.default)
    return " or ".join(words[choice] for choice in choices)


def _prepared(method: Method) -> str:
    """What `optimize` does for it; labels are never asked for."""
    steps = set(method.steps)
    fitted = (["trained networks"] if "relevance" in steps else []) + (
        ["fitted on pictures"] if "complete" in steps else []
    )
    more = ["weights adapted if asked for"] if steps & {"distil", "adapt"} else []
    return ", ".join(fitted + more) or "nothing"


def _exports(method: Method) -> str:
    """At its defaults: for many sizes, for one, or not."""
    if method.changes == "pictures":
        return "as the dense model"
    found = []
    for largest, words in (((512, 512), "yes"), ((256, 256), "one size a file")):
        config = sparsight.SVE(layers=(0,)) if method.config is sparsight.SVE else method.config()
        try:
            check_plan(Plan(methods=(config,)), Shapes(largest=largest, **SIZES))
            found.append(words)
        except PlanError:
            continue
    return found[0] if found else "no"


def _hosts(method: Method) -> str:
    if method.needs == "windows":
        return "Swin, Swin v2, SAM 2"
    return {
        "attention": "every model that attends", "mlp": "all families but Swin", "block": "plain ViTs",
    }.get(method.changes, "every model")  # fmt: skip


def _figure(method: Method) -> str:
    """The fastest row within a point of dense, or else the one that loses least; of results."""
    for file in MEASURED:
        found = json.loads((RESULTS / file).read_text(encoding="utf-8"))["rows"]
        dense = found[0]["miou"]
        own = [
            (row["miou"] - dense, row["speedup"])
            for row in found[1:]
            if row.get("method", "sparsevit") == method.name
        ]
        if own:
            near = [(speedup, lost) for lost, speedup in own if lost >= -POINT]
            speedup, lost = max(near) if near else max(own)[::-1]
            return f"{speedup:.2f}x, {100 * lost:+.1f} points"
    return UNKNOWN
