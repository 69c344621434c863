"""How long a choice takes: a table of measured parts, so that a trial need not be timed.

The latency of SVE's settings is that of the dense model, less its dense blocks, plus every block as it
would run.  Blocks of one shape are timed once for each way of running them.  Settings of other methods
are timed as a whole.  The table is a file that says on which machine it was made.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.attach import apply, family_in
from sparsight.errors import SparsightError
from sparsight.files import write_json
from sparsight.fit import asks_projection, named_shapes, with_layers
from sparsight.inplace import argument_names, change
from sparsight.methods import SVE, Settings, method_of
from sparsight.methods.site import Site
from sparsight.methods.sve.attention import SparseAttention
from sparsight.methods.sve.pattern import Pattern
from sparsight.plan import Plan
from sparsight.scores import SCORES
from sparsight.stages import timing
from sparsight.stages.bench import blank
from sparsight.stages.measure import fused

REPEATS = 5
WHOLE = "dense model"


class LatencyTable:
    """Milliseconds by what runs.  Kept in `file`, if there is one, after every measurement."""

    def __init__(self, file: Path | None, setting: dict[str, Any]) -> None:
        self.file, self.setting = file, setting
        self.ms: dict[str, float] = {}
        if file is not None and file.exists():
            self.ms = _read(file, setting)

    def of(self, missing: dict[str, Callable[[], Any]], device: torch.device) -> dict[str, float]:
        """Milliseconds of every arm; those not in the table are measured, interleaved."""
        new = {key: call for key, call in missing.items() if key not in self.ms}
        if new:
            times = timing.interleave(new, REPEATS, device, "Timing parts")
            self.ms |= {key: timing.summary(taken)["latency_ms"] for key, taken in times.items()}
            if self.file is not None:
                write_json(self.file, {"setting": self.setting, "ms": self.ms})
        return {key: self.ms[key] for key in missing}


def _read(file: Path, setting: dict[str, Any]) -> dict[str, float]:
    """The entries of a table; SparsightError if it is damaged or of another machine or number format."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        theirs, entries = dict(found["setting"]), {str(k): float(v) for k, v in found["ms"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SparsightError(f"{file} is no latency table: {error}") from None
    for name, value in setting.items():
        if theirs.get(name) != value:
            raise SparsightError(
                f"{file} was measured with {name} {theirs.get(name)!r}, and here it is {value!r}: give "
                "another --latency-table, and one is measured"
            )
    return entries


class Latency:
    """Predicts what settings take on this machine, for one model and picture size."""

    def __init__(self, model: nn.Module, picture: Tensor, plan: Plan, file: Path | None) -> None:
        self.model, self.picture, self.plan = model, picture, plan
        self.family = family_in(model)
        setting = timing.setting(picture.device, picture.dtype)
        size = list(picture.shape[2:])
        kept = ("machine", "versions", "dtype", "threads")
        self.table = LatencyTable(
            file,
            {name: setting[name] for name in kept} | {"model": type(model).__name__, "picture_px": size},
        )

    def __call__(self, settings: Settings | None) -> float:
        """Milliseconds; None is the dense model."""
        if isinstance(settings, SVE):
            return self.by_blocks(settings)
        if settings is None:
            call, key = (lambda: self.family.features(self.model, self.picture)), WHOLE
        else:
            changed = apply(copy.deepcopy(self.model), self._blank(settings))
            call = lambda: self.family.features(changed, self.picture)  # noqa: E731
            key = f"{method_of(settings).name} {settings.model_dump_json()}"
        with fused(self.model):
            return self.table.of({key: call}, self.picture.device)[key]

    def _blank(self, settings: Settings) -> Plan:
        """The plan with other settings, and zeros for maps that they need: the time is the same."""
        plan = with_layers(self.plan.changed(settings), self.model, self.family)
        return blank(plan, named_shapes(plan, self.model, self.family))

    def by_blocks(self, settings: SVE) -> float:
        """The dense model, less its blocks where it is sparse, plus those as they would run."""
        total, followers = self(None), settings.followers()
        for layer in settings.named_layers:
            parts = self.block(layer, settings, follows=layer in followers)
            total += parts["sparse"] - parts["dense"]
        return total

    def block(self, layer: int, settings: SVE, follows: bool) -> dict[str, float]:
        """Milliseconds of one block, dense and sparse; measured once for all blocks of its shape."""
        blocks = self.family.blocks(self.model)
        shape = f"{type(blocks[layer]).__name__} {self.family.dim(blocks[layer])} wide"
        queries, keys = settings.kept_at(layer)
        way = f"queries {queries:.6g} keys {keys:.6g} {settings.completion} " + (
            "reuses" if follows else f"{settings.score} 1/{settings.sample_every}"
        )
        names = {"dense": f"{shape}: dense", "sparse": f"{shape}: {way}"}
        if not set(names.values()) <= self.table.ms.keys():
            with fused(self.model):
                calls = self._calls(layer, settings, follows)
                self.table.of({names[arm]: call for arm, call in calls.items()}, self.picture.device)
        return {arm: self.table.ms[key] for arm, key in names.items()}

    def _calls(self, layer: int, settings: SVE, follows: bool) -> dict[str, Callable[[], Any]]:
        """The block on what it is really given, dense and sparse, alone or after a leader."""
        blocks, seen = self.family.blocks(self.model), []
        handle = blocks[layer].register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
        )
        try:
            with torch.no_grad():
                self.family.features(self.model, self.picture)
        finally:
            handle.remove()
        (args, host), attn = seen[0], self.family.parts.attention
        sparse = copy.deepcopy(blocks[layer])
        queries, keys = settings.kept_at(layer)
        pair = (layer - 1, layer)  # a leader, and this block as if it came after it
        config = settings.model_copy(
            update={"keep": keys, "keep_queries": queries, "min_tokens": 0, "layers": pair,
                    "groups": (pair,) if follows else ()}
        )  # fmt: skip
        shared = Pattern() if follows else None
        site = Site(
            self.family, self.family.prefix_tokens(self.model), config, layer, len(blocks),
            argument_names(attn(sparse)), shared,
        )  # fmt: skip
        if asks_projection(config):
            site.projection = self.family.projection(self.model, layer)
        change(attn(sparse), SparseAttention, site, self._tensors(layer, settings))
        if shared is not None:
            b = len(self.picture)
            n = args[0][..., 0].numel() // b
            count = max(attn(sparse).counts(n))
            shared.give(((torch.arange(count, device=args[0].device).expand(b, count), n),))
        return {
            "dense": lambda: blocks[layer](*args, **host),
            "sparse": lambda: sparse(*args, **host),
        }

    def _tensors(self, layer: int, settings: SVE) -> dict[str, Tensor]:
        """Stand-ins of the right shape for what a plan brings to `layer`."""
        dim = self.family.dim(self.family.blocks(self.model)[layer])
        shapes = SCORES[settings.score].tensors(dim)
        if settings.completion == "map":
            shapes = shapes | {"map": (dim + 1, dim)}
        return {name: self.picture.new_zeros(shape) for name, shape in shapes.items()}
