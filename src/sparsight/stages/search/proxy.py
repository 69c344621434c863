"""The error of a choice, on a few pictures: what may be completed is fitted on as few others.

In steps, on one picture and then on all of the few: most choices are so much worse than others that one
tells.  What is on the front is fitted anew, on all pictures of the search.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from sparsight.errors import PlanError
from sparsight.images import Held, Images, named
from sparsight.plan import Plan
from sparsight.stages.bench import Bench, bench_of
from sparsight.stages.complete import complete
from sparsight.stages.search.space import INFEASIBLE, Methods
from sparsight.stages.select import Damage

MOST = 4  # pictures that maps of a trial are fitted on, and that it is judged on


@dataclass(frozen=True)
class Half:
    """Every second picture, so that what is searched on is not what is reported on."""

    images: Images
    first: int

    def __len__(self) -> int:
        return (len(self.images) - self.first + 1) // 2

    def __getitem__(self, index: int) -> Tensor:
        return self.images[self.first + 2 * index]

    def name_of(self, index: int) -> str:
        """What the set calls it."""
        return named(self.images, self.first + 2 * index)


class Proxy:
    """Errors of settings of `plan`, in `steps` of more and more of the pictures of `every`."""

    def __init__(self, every: Bench, plan: Plan) -> None:
        model, images = every.model, every.images
        self.plan, self.refused = plan, ""  # why the last that could not be fitted was refused
        fitted, judged = (Half(images, 0), Half(images, 1)) if len(images) > 1 else (images, images)
        counts = sorted({(1, 1), (min(MOST, len(fitted)), min(MOST, len(judged)))})
        held, seen = Held(fitted), Held(judged)
        self.benches = [bench_of(model, held, count) for count, _ in counts]
        for bench in self.benches:
            bench.results = {}
        self.damages = [Damage(model, seen, count) for _, count in counts]
        self.every = every  # on all pictures, where those are too few for a map

    @property
    def steps(self) -> list[Callable[[Methods], float]]:
        """The error by the first pictures, then by all of the few."""
        *firsts, last = zip(self.benches, self.damages, strict=True)
        return [*(partial(self.error, benches=[b], damage=d) for b, d in firsts),
                partial(self.error, benches=[last[0], self.every], damage=last[1])]  # fmt: skip

    def error(self, methods: Methods, benches: Sequence[Bench], damage: Damage) -> float:
        """With the first of `benches` that will do.

        INFEASIBLE if all have too few tokens for a map, or the result is not finite.
        """
        plan = self.plan.with_(methods=methods)
        for bench in benches:
            try:
                found = damage(complete(bench, plan))
                return found if math.isfinite(found) else INFEASIBLE
            except PlanError as error:
                self.refused = str(error)
        return INFEASIBLE
