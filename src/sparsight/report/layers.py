"""The charts that have a value for each layer."""

from collections.abc import Callable, Iterator

from sparsight.report.chart import Chart, Series
from sparsight.report.data import Run
from sparsight.report.words import place_of


def by_fate(rows: list[tuple[int, float, bool]]) -> tuple[Series, ...]:
    """Bars of layers, those that became sparse in another colour; rows: layer, value, sparse."""
    return tuple(
        Series(name, [n for n, _, own in rows if own is fate], [y for _, y, own in rows if own is fate],
               "bar", colour=colour)
        for name, colour, fate in (("made sparse", 0, True), ("stays dense", 6, False))
        if any(own is fate for _, _, own in rows)
    )  # fmt: skip


def indicator(run: Run) -> Iterator[Chart]:
    """Sparsity of each layer."""
    if not (found := run.parts.get("analysis")):
        return
    chosen = run.sparse_layers
    rows = [(layer["layer"], layer["indicator"], layer["layer"] in chosen) for layer in found["layers"]]
    yield Chart(
        "indicator", "Where attention is sparse (s, by layer)",
        "High bars: most tokens of that layer are quiet, with less than a tenth of the attention of the "
        "most attended one, so little is lost if few see them.",
        "layer", "share of quiet tokens, s", by_fate(rows),
        level=("half of the tokens", 0.5),
    )  # fmt: skip


def overlap(run: Run) -> Iterator[Chart]:
    """What layers look at in common."""
    if not (found := run.parts.get("analysis")):
        return
    layers = [layer["layer"] for layer in found["layers"]]
    places = {layer: place for place, layer in enumerate(layers)}
    groups = [[places[n] for n in group] for group in run.sve.get("groups") or ()]
    yield Chart(
        "overlap", "Do layers look at the same tokens? (share of the top 1/8 in common)",
        "Bright squares: neighbouring layers rank alike. "
        + ("The framed runs of layers share one ranking." if groups else "No layers share a ranking."),
        "layer", "layer", heat=tuple(map(tuple, found["overlap"])), labels=tuple(map(str, layers)),
        boxes=tuple((group[0], group[-1]) for group in groups),
    )  # fmt: skip


def recall(run: Run) -> Iterator[Chart]:
    """How well scores find the tokens that matter."""
    if not (found := run.parts.get("analysis_sparse") or run.parts.get("analysis")):
        return
    chosen = run.sparse_layers or {layer["layer"] for layer in found["layers"]}
    curves: dict[str, list[list[float]]] = {}
    for layer in found["layers"]:
        if layer["layer"] in chosen:
            for name, curve in layer["recall"].items():
                curves.setdefault(name, []).append(curve)
    series = tuple(
        Series(name, list(found["kept_fractions"]), [sum(y) / len(own) for y in zip(*own, strict=True)])
        for name, own in sorted(curves.items())
    )
    yield Chart(
        "recall", "Do scores find the tokens that matter? (mean over the sparse layers)",
        "A perfect score has found all of the truly most attended eighth at 1/8 kept.",
        "fraction of tokens kept", "share of the true top 1/8 found", series,
    )  # fmt: skip


def damage(run: Run) -> Iterator[Chart]:
    """What each layer would cost alone."""
    rows = [row for row in (run.plan or {}).get("layers", ()) if row["damage"] is not None]
    if rows:
        yield Chart(
            "damage", "What making one layer sparse costs (that layer alone)",
            "Low bars are cheap layers; they were taken first.",
            "layer", "relative error of the final features",
            by_fate([(row["layer"], row["damage"], row["sparse"]) for row in rows]),
        )  # fmt: skip


def linear_rest(run: Run) -> Iterator[Chart]:
    """How linear the rest of the network is after each layer."""
    found = run.parts.get("analysis") or {"layers": ()}
    rows = [(row["layer"], row.get("linear_rest")) for row in found["layers"]]
    rows = [(layer, error) for layer, error in rows if error is not None]
    if rows:
        yield Chart(
            "linear-rest", "How linear is the rest of the network? (after each layer)",
            "The error of the best linear map from a layer's result straight to the last one's. Where "
            "it is low, tokens can leave and a map can finish them.",
            "layer", "relative error of the map",
            (Series("best linear map", [n for n, _ in rows], [y for _, y in rows]),),
        )  # fmt: skip


def completion(run: Run) -> Iterator[Chart]:
    """What completion repaired, by layer."""
    rows = run.completion
    if rows:
        one_kind = len({row["method"] for row in rows}) == 1
        places = [str(row["layer"]) if one_kind else place_of(row) for row in rows]
        yield Chart(
            "completion", "What completion repairs, before and after (by layer)",
            "Of what skipped tokens lack without a map, the part that they still lack with it: the "
            "lower the bar of after, the more is repaired.",
            "layer", "squared error left",
            (
                Series("before", places, [1.0] * len(rows), "bar", colour=6),
                Series("after", places, [row["left"] for row in rows], "bar", colour=0),
            ),
            by_category=True,
        )  # fmt: skip


MAKERS: tuple[Callable[[Run], Iterator[Chart]], ...] = (
    completion, indicator, linear_rest, damage, overlap, recall,
)  # fmt: skip
