"""Complete: fit what stands in the place of what is skipped, in closed form, without labels or training.

One pass of the dense model tells what it makes of each token; in one pass of the sparse one, picture
by picture in step, each layer's map is fitted on what is really skipped there and used from there on,
so that errors do not add up.  A fit is the method's own (`fit` of its change): it asks for a
regression on one picture's rows and is given the solution over all pictures.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsight.completions.linear import Regression
from sparsight.errors import PlanError
from sparsight.files import write_atomically
from sparsight.fit import Place, named_shapes, places, with_layers
from sparsight.methods import LowerResolution, method_of, tensor_name
from sparsight.modes import evaluating
from sparsight.plan import Plan
from sparsight.stages.bench import Bench, blank
from sparsight.stages.lockstep import Lockstep, Meet
from sparsight.stages.progress import track
from sparsight.stages.teach import teach

COMPLETION_FILE = "completion.safetensors"  # what is fitted so far, in the run's folder
BUDGET_BYTES = 3 << 30  # for what pictures hold while they wait for one another
HELD = 24  # copies of all tokens, at most, that a picture holds at a layer


def complete(bench: Bench, plan: Plan) -> Plan:
    """`plan` with the maps of all its methods, and the scores that are fitted with them.

    With a folder, what is fitted is saved layer by layer, and the same call goes on from there.  Raises
    PlanError if there are too few tokens for a map, or the fit has no finite solution.
    """
    plan = with_layers(plan, bench.model, bench.family)
    shapes = fitted_shapes(bench, plan)
    if not shapes:
        return plan
    if plan.find(LowerResolution):
        return teach(bench, plan, shapes)
    recipe = json.dumps([plan.to_json(), bench.max_images, len(bench.images)])
    saved = _Saved.of(bench.folder / COMPLETION_FILE if bench.folder else None, recipe)
    student_plan = blank(plan.with_(weights=saved.tensors), shapes)
    student = bench.sparse(student_plan)
    todo = {
        place.module: place
        for place in places(student_plan, student, bench.family)
        if (names := set(_names(place)) & shapes.keys()) and not names <= saved.tensors.keys()
    }
    with evaluating(bench.model), evaluating(student):
        _fit(bench, student, todo, saved)
    if missing := sorted(shapes.keys() - saved.tensors.keys()):
        raise PlanError(
            f"{missing[0]!r} cannot be fitted: nothing is skipped there in any of the pictures; give "
            "larger ones, or skip more"
        )
    rows = sorted(saved.repaired, key=lambda row: row["layer"])
    return plan.with_(weights=saved.tensors, recipe=plan.recipe | {"completion": rows})


def fitted_shapes(bench: Bench, plan: Plan) -> dict[str, tuple[int, ...]]:
    """The tensors that are fitted here, by their names in the plan."""
    return {
        name: shape
        for name, shape in named_shapes(plan, bench.model, bench.family).items()
        if name.split(".")[2] in ("map", "error", "bound", "threshold")
    }


def _names(place: Place) -> list[str]:
    """What the tensors of a place are called in the plan."""
    return [tensor_name(method_of(place.config).name, place.layer, short) for short in place.tensors]


def _fit(bench: Bench, student: nn.Module, todo: dict[nn.Module, Place], saved: "_Saved") -> None:
    """All calibration pictures through the student, in step."""
    mine, asked = threading.local(), dict[str, Place]()
    ticks = track(range(len(todo)), "Completing", len(todo))
    next(ticks, None)  # the first is begun, and each `next` from here on ends one

    def fit(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        place = todo[module]
        what = f"the map of {method_of(place.config).name} in layer {place.layer}"
        asked[what] = place
        x, host = module.bound(args, kwargs)
        asking = module.fit(x, host, mine.wanted)
        try:
            ask = next(asking)
            while True:
                ask = asking.send(mine.meet(what, ask))
        except StopIteration as done:
            module.set_tensors(done.value)
            if saved.add(place, done.value):
                next(ticks, None)

    def note(what: str, ask: Any) -> None:
        if isinstance(ask, Regression):
            saved.note(asked[what], ask)

    layers = {n for module in todo for n in getattr(module, "completed_layers", tuple)()}

    def job(place: int, picture: Tensor) -> Callable[[Meet], None]:
        wanted = bench.dense_results(place, picture, layers)

        def run(meet: Meet) -> None:
            mine.meet, mine.wanted = meet, wanted
            bench.family.features(student, picture)

        return run

    handles = [module.register_forward_pre_hook(fit, with_kwargs=True) for module in todo]
    try:
        placed = bench.placed(_count(bench, todo)) if todo else ()
        Lockstep(note).run([job(place, picture) for place, picture in placed])
    finally:
        ticks.close()
        for handle in handles:
            handle.remove()


def _count(bench: Bench, todo: dict[nn.Module, Place]) -> int:
    """How many pictures may wait at once within the memory for it."""
    largest = bench.output_bytes({place.layer for place in todo.values()})
    return max(1, min(bench.max_images, BUDGET_BYTES // (HELD * largest)))


@dataclass
class _Saved:
    """What is fitted so far, in a file that is replaced as a whole; None: kept in memory alone."""

    file: Path | None
    recipe: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    repaired: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, file: Path | None, recipe: str) -> "_Saved":
        """From the file, if it is of the same recipe; else empty."""
        from safetensors import SafetensorError, safe_open

        found = cls(file, recipe)
        if file is None or not file.exists():
            return found
        try:
            with safe_open(file, "pt") as opened:
                metadata = opened.metadata() or {}
                if metadata.get("recipe") == found.recipe:
                    names = set(opened.keys())
                    found.tensors = {name: opened.get_tensor(name) for name in names}
                    found.repaired = json.loads(metadata["repaired"])
        except (SafetensorError, KeyError, ValueError):
            found.tensors, found.repaired = {}, []  # damaged: it costs a minute to fit anew
        return found

    def add(self, place: Place, new: dict[str, Tensor]) -> bool:
        """Keep what was fitted for a place; False if another picture brought it before."""
        from safetensors.torch import save_file

        method = method_of(place.config).name
        named = {
            tensor_name(method, place.layer, short): value.detach().cpu().contiguous()
            for short, value in new.items()
        }
        if set(named) <= self.tensors.keys():
            return False
        self.tensors |= named
        if self.file is not None:
            metadata = {"recipe": self.recipe, "repaired": json.dumps(self.repaired)}
            write_atomically(self.file, lambda path: save_file(self.tensors, path, metadata))
        return True

    def note(self, place: Place, ask: Regression) -> None:
        """How much of what was missing a map leaves; of several at one place, the last."""
        key = {"method": method_of(place.config).name, "layer": place.layer}
        self.repaired = [row for row in self.repaired if not key.items() <= row.items()]
        self.repaired.append(key | {"left": ask.left, "tokens": ask.count})
