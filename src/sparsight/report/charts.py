"""Which charts a run gives: each function reads one part of it and may find that it is not there."""

from collections.abc import Callable, Iterator

from sparsight.report import layers
from sparsight.report.chart import Chart, Series
from sparsight.report.data import Run


def charts_of(run: Run) -> list[Chart]:
    """All charts the run has data for; what cannot be read is added to `run.missing`."""
    found: list[Chart] = []
    for make in MAKERS:
        try:
            found.extend(make(run))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            what = (make.__doc__ or make.__name__).split(".")[0].lower()
            run.missing.append(f"Not shown: {what} (the run is of another version: {error!r}).")
    return found


TRAININGS = {  # by their name in the recipe: title and unit
    "distillation": ("Distillation: how far the sparse layers are from the dense ones",
                     "loss (sum over sparse layers of the relative square)"),
    "adaptation": ("Adaptation to dropped windows", "loss"),
    "relevance": ("Training of the networks that rank by relevance", "loss"),
}  # fmt: skip


def loss(run: Run) -> Iterator[Chart]:
    """Loss of the training."""
    recipe = (run.plan or {}).get("recipe", {})
    title, unit = next(
        (told for name, told in TRAININGS.items() if name in recipe), ("Training", "loss")
    )
    if losses := run.parts.get("losses"):
        yield Chart(
            "loss", title,
            "It should fall and level off; if it still falls at the end, more steps would help.",
            "step", unit, (Series("loss", list(range(1, len(losses) + 1)), list(losses)),),
        )  # fmt: skip


def held_out(run: Run) -> Iterator[Chart]:
    """Error on the pictures that a distillation held out."""
    ending = (run.plan or {}).get("recipe", {}).get("distillation", {}).get("ending")
    if ending:
        steps, errors = zip(*ending["errors"], strict=True)
        yield Chart(
            "held-out", f"Distillation: the error on {ending['pictures']} pictures held out",
            f"The weights of the lowest point were kept; it ended because {ending['ended']}.",
            "step", "relative error of the final features, by salience",
            (Series("held out", list(steps), list(errors)),),
        )  # fmt: skip


def trade(run: Run) -> Iterator[Chart]:
    """Quality against latency."""
    for key, what in (("front", "the search"), ("comparison", "all methods"), ("demo", "the demo")):
        if not (result := run.parts.get(key)):
            continue
        rows = result["rows"]
        quality = rows[0].get("quality_name") or result["protocol"].get("quality_name") or "mIoU"
        points: dict[str, list[tuple[float, float, str]]] = {}
        for row in rows:
            value = row["quality"] if "quality" in row else row["miou"]
            label = row.get("setting") or row.get("name", "")
            name = row.get("method") or ("searched" if key == "front" else "arms")
            points.setdefault(name, []).append((row["latency_ms"], value, label))
        best = _pareto([point for own in points.values() for point in own])
        series = [Series("best so far", [p[0] for p in best], [p[1] for p in best], colour=6)]
        series += [
            Series(name, [p[0] for p in own], [p[1] for p in own], "points", [p[2] for p in own])
            for name, own in points.items()
        ]
        yield Chart(
            f"trade-{key}", f"Quality against latency: {what}",
            "Up and to the left is better; the grey line joins the points nothing beats.",
            "latency (ms for one picture)", quality, tuple(series),
        )  # fmt: skip


def _pareto(points: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Points that no faster one equals in quality, the fastest first."""
    best: list[tuple[float, float, str]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def sizes(run: Run) -> Iterator[Chart]:
    """Time and memory by resolution."""
    cases = [case for case in (run.parts.get("measure") or {}).get("cases", ()) if case["batch"] == 1]
    tokens = [row["tokens"] for row in (run.plan or {}).get("recipe", {}).get("crossover", ())]
    if len({case["resolution"] for case in cases}) > 1:
        for key, title, unit in (
            ("latency_ms", "Time by resolution", "latency (ms)"),
            ("peak_memory_mb", "Memory by resolution", "peak memory above the weights (MB)"),
        ):
            own = {arm: [c for c in cases if c["arm"] == arm] for arm in ("dense", "sparse")}
            series = tuple(
                Series(arm, [c["resolution"] for c in rows], [c[key] for c in rows])
                for arm, rows in own.items()
            )
            yield Chart(
                f"size-{key}", title, "Sparse pays where its line is below.", "resolution (px)", unit,
                series, by_category=True,
            )  # fmt: skip
    if tokens:
        rows = run.plan["recipe"]["crossover"] if run.plan else []
        yield Chart(
            "crossover", "From which size on sparse is faster",
            "Where the lines cross, sparse begins to pay; below, layers run dense by themselves.",
            "tokens", "latency (ms)",
            tuple(
                Series(arm, tokens, [row[f"{arm}_ms"] for row in rows]) for arm in ("dense", "sparse")
            ),
        )  # fmt: skip


def spent(run: Run) -> Iterator[Chart]:
    """Where the time goes."""
    cases = (run.parts.get("measure") or {}).get("cases", ())
    if not cases or "shares" not in cases[0]:
        return
    last = [case for case in cases if case["resolution"] == cases[-1]["resolution"]][-2:]
    yield Chart(
        "time", f"Where the time goes, before and after ({last[0]['resolution']} px)",
        "The sparse bar should be shorter by what attention lost.",
        "", "latency (ms)",
        tuple(
            Series(
                kind, [c["arm"] for c in last],
                [c["shares"][kind] * c["latency_ms"] for c in last], "bar",
            )
            for kind in last[0]["shares"]
        ),
        stacked=True, by_category=True,
    )  # fmt: skip


def by_image(run: Run) -> Iterator[Chart]:
    """How far the features of each picture moved."""
    rows = (run.parts.get("measure") or {}).get("fidelity", {}).get("by_image")
    if rows:
        ordered = sorted(rows, key=lambda row: -row["relative_error"])
        yield Chart(
            "images", "How far the features of each picture moved, the worst first",
            "A steep start means that a few pictures fare much worse than the mean says.",
            "picture, by rank", "relative error of the final features",
            (
                Series(
                    "pictures", list(range(1, len(ordered) + 1)),
                    [row["relative_error"] for row in ordered], "points",
                    [row["name"] for row in ordered],
                ),
            ),
            level=("mean", sum(row["relative_error"] for row in rows) / len(rows)),
        )  # fmt: skip


def by_count(run: Run) -> Iterator[Chart]:
    """How much of each picture was kept, and how far its features moved."""
    rows = (run.parts.get("measure") or {}).get("fidelity", {}).get("by_image", ())
    rows = [row for row in rows if row.get("kept")]
    if rows:
        yield Chart(
            "kept", "How much of each picture was kept, and how far its features moved",
            "Pictures to the right are fuller and take longer; their error should be about the same.",
            "kept (% of the tokens or windows)", "relative error of the final features",
            tuple(
                Series(
                    method, [100 * row["kept"][method] for row in rows],
                    [row["relative_error"] for row in rows], "points", [row["name"] for row in rows],
                )
                for method in rows[0]["kept"]
            ),
        )  # fmt: skip


MAKERS: tuple[Callable[[Run], Iterator[Chart]], ...] = (
    trade, spent, sizes, by_image, by_count, *layers.MAKERS, loss, held_out,
)  # fmt: skip
