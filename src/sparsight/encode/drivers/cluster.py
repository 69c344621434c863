"""Ray Data: actors that each load the model once do the parts, on one machine or on many.

What travels is which parts an actor is to do, and their counts.  Actors read the pictures and write
the parts themselves, so the source and the sink must be at the same path on every machine.  Whatever Ray
does again after a failure replaces what was there, by the rules of the ledger.
"""

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from sparsight.encode.tally import Tally
from sparsight.encode.work import Job, Worker
from sparsight.errors import SparsightError
from sparsight.extras import extra

LOCAL = "local"  # the address that stands for a cluster of this machine alone, started and ended here
RETRIES = 2  # of a part whose actor died


class Actor:
    """A worker in a process of Ray's."""

    def __init__(self, job: Job) -> None:
        self.worker = Worker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the parts of a batch of rows {"part": n}; what is refused comes back as words.

        An error would come out of Ray as a traceback over several processes.
        """
        try:
            tallies = [
                tally.as_json() for tally in self.worker.do([int(part) for part in batch["part"]])
            ]
            return {"tally": [json.dumps(tally) for tally in tallies], "error": [""] * len(tallies)}
        except SparsightError as error:
            return {"tally": [""], "error": [str(error)]}


def run_on_ray(job: Job, parts: Sequence[int], address: str, actors: int | None) -> Iterator[Tally]:
    """The count of each part, when it is there; `actors` of them, or one for each GPU or core."""
    ray, data = extra("ray"), extra("ray.data")
    if not (joined := ray.is_initialized()):
        connect(ray, address)
    try:
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0)) if job.settings.device in (None, "cuda") else 0
        count = min(actors or gpus or max(1, int(there.get("CPU", 1))), len(parts))
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
        counts = rows.map_batches(
            Actor, batch_size=1, compute=data.ActorPoolStrategy(size=count), num_cpus=1,
            num_gpus=1 if gpus else 0, fn_constructor_kwargs={"job": job}, max_restarts=RETRIES,
            max_task_retries=RETRIES,
        )  # fmt: skip
        for row in counts.iter_rows():
            if row["error"]:
                raise SparsightError(row["error"])
            yield Tally.from_json(json.loads(row["tally"]))
    except ray.exceptions.RayError as error:
        raise SparsightError(told(error)) from None
    finally:
        if not joined:
            ray.shutdown()


def connect(ray: Any, address: str) -> None:
    """Start a cluster here, or join the one at an address; SparsightError if nobody answers."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(
            address=None if address == LOCAL else address, log_to_driver=False, logging_level="ERROR",
            **({"include_dashboard": False} if address == LOCAL else {}),
        )  # fmt: skip
    except Exception as error:  # Ray's kinds differ by how it is addressed
        raise SparsightError(
            f"no Ray cluster answers at {address!r} ({str(error).splitlines()[0][:120]}): start one "
            "with ray start --head, or leave the address out"
        ) from None


def told(error: Exception) -> str:
    """Why, of a traceback over several processes: its last line that names an error."""
    lines = [line.strip() for line in str(error).splitlines() if "Error" in line]
    why = lines[-1][:160] if lines else type(error).__name__
    return f"a worker of Ray died ({why}); what was encoded is kept, and the same command goes on"
