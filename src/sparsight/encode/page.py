"""The page a sink ends in: what is there, at what rate, and what was left out.  Runs no model."""

from pathlib import Path
from typing import Any

from sparsight.files import write_text

PAGE_FILE = "report.html"
SHOWN = 50  # lines of a table


def write_page(folder: Path, summary: dict[str, Any], quarantine: dict[str, str]) -> Path:
    """Write the page of a summary into the sink; returns its path."""
    path = folder / PAGE_FILE
    write_text(path, rendered("encode.html", name=folder.name, **context(summary, quarantine)))
    return path


def rendered(template: str, **values: Any) -> str:
    """A template of this room, in the style of the report."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    places = [
        PackageLoader("sparsight.encode", "template"),
        PackageLoader("sparsight.report", "template"),
    ]
    environment = Environment(
        loader=ChoiceLoader(places), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    text = environment.get_template(template).render(**values)
    return text.encode("utf-8", "replace").decode("utf-8")


def context(summary: dict[str, Any], quarantine: dict[str, str]) -> dict[str, Any]:
    """What the page says, in words."""
    sink, run, versus = summary["sink"], summary["run"], summary.get("compare_dense")
    facts = [
        (f"{sink['pictures']:,}", "pictures encoded", f"{sink['tokens']:,} patch tokens"),
        (
            f"{run['pictures_per_s']:.3g}",
            "pictures a second",
            f"{run['tokens_per_s']:,.0f} tokens a second",
        ),
        (percent(sink["ran_dense"], sink["pictures"]), "ran dense", "too few tokens to be sparse"),
        *(
            (f"{share['median']} %", f"kept of the middle picture, {method}",
             f"{share['min']} % to {share['max']} % over all: the fuller a picture, the more")
            for method, share in sink["kept"].items()
        ),
        (f"{sink['quarantined']:,}", "left out", "with the reason, below"),
    ]  # fmt: skip
    if versus:
        facts.insert(
            1,
            (f"{versus['speedup']:.2f}x", "as fast as dense, end to end",
             f"{versus['sparse_pictures_per_s']:.3g} against {versus['dense_pictures_per_s']:.3g} "
             f"pictures a second over {versus['pictures']} pictures, decoding included"),
        )  # fmt: skip
    features = summary["features"]
    details = [
        ("model", summary["model"]),
        ("plan", summary["plan"] or "none: dense"),
        ("size of pictures", features["size"]),
        ("precision", features["precision"]),
        ("vectors and maps", ", ".join([*features["outputs"], *(f"tap{n}" for n in features["taps"])])),
        ("format", summary["format"]),
        ("source", summary["source"]["place"]),
        ("made on", f"{summary['setting']['machine']}, {summary['setting']['threads']} threads"),
    ]
    return {
        "facts": facts, "details": details, "missing": sink["parts_missing"],
        "grids": list(sink["grids"].items())[:SHOWN],
        "quarantine": list(quarantine.items())[:SHOWN], "more": max(0, len(quarantine) - SHOWN),
    }  # fmt: skip


def percent(part: int, whole: int) -> str:
    """A share in words."""
    return f"{100 * part / whole:.3g} %" if whole else "-"
