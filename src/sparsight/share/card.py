"""The model card: what a run gains and costs, as it was measured; what was not, is said.

Its metadata is huggingface_hub's `ModelCardData`, its text template/card.md.
"""

from importlib.resources import files
from typing import Any

from sparsight import __version__
from sparsight.plan import Plan
from sparsight.report import words
from sparsight.report.data import Run
from sparsight.share.base import Base

TAGS = ("sparsight", "vision-encoder", "sparse-attention")
TASK = "image-feature-extraction"  # of the hub's list


def card_of(run: Run, plan: Plan, base: Base, repo: str) -> str:
    """The card of a run whose results are cleaned already."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name="sparsight", tags=sorted({*TAGS, *plan.name.split(" + ")}), pipeline_tag=TASK,
        base_model=base.repo, base_model_relation="adapter" if base.repo else None,
    )  # fmt: skip
    measured = run.parts.get("measure")
    card = ModelCard.from_template(
        data,
        template_str=(files("sparsight.share") / "template" / "card.md").read_text(encoding="utf-8"),
        repo=repo, name=repo.partition("/")[2], base=base, plan=plan, version=__version__,
        size=f"{plan.resolution[0]}x{plan.resolution[1]}" if plan.resolution else None,
        done=words.done(run), speed=_speed(measured), fidelity=(measured or {}).get("fidelity"),
        protocol=(measured or {}).get("protocol"), judged=[_judged(one) for one in run.tasks.values()],
        module=plan.recipe.get("module"),
    )  # fmt: skip
    return str(card)


def _speed(measured: dict[str, Any] | None) -> list[dict[str, str]]:
    """Rows of a table: each case, dense and sparse."""
    cases = (measured or {}).get("cases", ())
    dense = {(c["resolution"], c["batch"]): c["gflops"] for c in cases if c["arm"] == "dense"}
    return [
        {
            "where": f"{case['resolution']} px, batch {case['batch']}",
            "arm": case["arm"],
            "latency": "{latency_ms:.1f} ms ({latency_q1_ms:.1f} to {latency_q3_ms:.1f})".format(**case),
            "speedup": f"{case['speedup']:.2f}x",
            "throughput": f"{case['images_per_s']:.3g}",
            "memory": f"{case['peak_memory_mb']:.0f} MB",
            "work": f"{case['gflops']:.1f}",
            "ran_dense": case["arm"] != "dense"
            and case["gflops"] == dense.get((case["resolution"], case["batch"])),
        }
        for case in cases
    ]


def _judged(result: dict[str, Any]) -> dict[str, Any]:
    """One task: both arms of each metric, and the picture that lost most."""
    protocol = result["protocol"]
    rows = [
        {
            "metric": row["metric"], "dense": f"{row['dense']:.4f}", "sparse": f"{row['sparse']:.4f}",
            "difference": f"{row['difference']:+.4f}",
            "interval": "one picture alone" if row["low"] is None
            else f"{row['low']:+.4f} to {row['high']:+.4f}",
        }
        for row in result["scores"]
    ]  # fmt: skip
    worst = next((row for row in result["worst"]), None)
    return {
        "task": result["task"], "protocol": protocol, "rows": rows, "worst": worst,
        "notes": result["notes"],
    }  # fmt: skip
