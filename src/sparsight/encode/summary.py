"""What a sink holds and what a run did, as plain data."""

from typing import Any

from sparsight.encode.encoder import Encoder
from sparsight.encode.ledger import Ledger
from sparsight.encode.tally import Tally
from sparsight.stages import timing

SUMMARY_FILE = "summary.json"


def summary_of(
    ledger: Ledger, encoder: Encoder, run: Tally, seconds: float, quarantine: dict[str, str],
    versus: dict[str, Any] | None, processes: int,
) -> dict[str, Any]:  # fmt: skip
    """`sink`: all that is there; `run`: what this run did of it, at what rate."""
    whole = Tally()
    for tally in ledger.done().values():
        whole.add(tally)
    facts = ledger.facts()
    found = {
        "sink": {
            "pictures": whole.pictures, "tokens": whole.tokens, "ran_dense": whole.dense,
            "parts": ledger.parts, "parts_missing": ledger.parts - len(ledger.done()),
            "grids": dict(sorted(whole.grids.items(), key=lambda item: -item[1])),
            "quarantined": len(quarantine), "reasons": reasons(quarantine), "kept": whole.spread(),
        },
        "run": {
            "pictures": run.pictures, "left_out": len(run.left_out), "seconds": seconds,
            "pictures_per_s": run.pictures / seconds, "tokens_per_s": run.tokens / seconds,
            "share_dense": run.dense / run.pictures if run.pictures else 0.0, "processes": processes,
        },
        "model": encoder.loaded.source,
        "plan": encoder.loaded.plan.label if encoder.loaded.plan else None,
        "features": facts["features"], "format": facts["format"], "source": facts["source"],
        "setting": timing.setting(encoder.like.device, encoder.like.dtype),
    }  # fmt: skip
    return found | ({"compare_dense": versus} if versus else {})


def reasons(quarantine: dict[str, str]) -> dict[str, int]:
    """How many pictures were left out for each reason, the commonest first."""
    counts: dict[str, int] = {}
    for reason in quarantine.values():
        counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
