"""Bench: what every step of the pipeline works on: a model, and pictures that are read once."""

import copy
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsight.attach import applied, apply
from sparsight.data import Data
from sparsight.errors import PlanError
from sparsight.families import Family, family_of
from sparsight.images import Held, Images, Reader
from sparsight.plan import Plan
from sparsight.stages.adapt import Adaptation
from sparsight.stages.distil import Distillation
from sparsight.stages.observe import outputs_of
from sparsight.stages.relevance import RelevanceTraining

KEPT_BYTES = 1 << 30  # of what dense blocks return


class How(Data):
    """What the user wants of the steps."""

    select_by: Literal["damage", "indicator"] = "damage"
    max_error: float = 0.12  # how far the tokens that stand out may move
    indicator_threshold: float = 0.5
    reuse_overlap: float | None = 0.6  # None: no layers share a pattern
    distillation: Distillation | None = None
    adaptation: Adaptation | None = None
    relevance: RelevanceTraining | None = None


@dataclass
class Bench:
    """A dense model and the pictures a plan is made on.

    What steps find out for later ones, or for the report, stands in `found` by name.
    """

    model: nn.Module
    family: Family
    given: Images
    max_images: int = 16
    folder: Path | None = None  # of the run
    how: How = field(default_factory=How)
    found: dict[str, Any] = field(default_factory=dict)
    images: Images = field(init=False)  # those given, each read once
    reader: Reader[Tensor] = field(init=False)
    # What dense blocks return, by picture and layer; kept where several plans are completed in turn.
    results: dict[tuple[int, int], Tensor] | None = None
    sizes: dict[int, int] = field(default_factory=dict)  # of what dense blocks return, in bytes

    def __post_init__(self) -> None:
        self.images = Held(self.given)
        self.reader = Reader(self.images)

    def pictures(self, count: int | None = None) -> Iterator[Tensor]:
        """Up to `count` pictures (1, 3, height, width), evenly spread, as the model takes them."""
        return (picture for _, picture in self.placed(count))

    def placed(self, count: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """The same, each with its place in the set."""
        like = next(self.model.parameters())
        for place, picture in self.reader.placed(min(count or self.max_images, self.max_images)):
            yield place, picture[None].to(like.device, like.dtype)

    def dense_results(self, place: int, picture: Tensor, layers: Set[int]) -> dict[int, Tensor]:
        """What the dense model's blocks of `layers` return for the picture at a place of the set."""
        kept = self.results if self.results is not None else {}
        found = {n: kept[place, n] for n in layers if (place, n) in kept}
        if missing := set(layers) - found.keys():
            with outputs_of(self.model, missing) as outputs:
                self.family.features(self.model, picture)
            found |= outputs
            if sum(t.nbytes for t in (*kept.values(), *outputs.values())) <= KEPT_BYTES:
                kept |= {(place, n): output for n, output in outputs.items()}
        return found

    def output_bytes(self, layers: Set[int]) -> int:
        """Of what the largest of these blocks returns for the first picture."""
        if missing := layers - self.sizes.keys():
            with outputs_of(self.model, missing) as outputs:
                self.family.features(self.model, self.first())
            self.sizes |= {n: output.nbytes for n, output in outputs.items()}
        return max((self.sizes[n] for n in layers), default=1)

    def first(self) -> Tensor:
        """The first picture that can be read, in the same way."""
        like = next(self.model.parameters())
        return self.reader.read(0)[None].to(like.device, like.dtype)

    def counted(self) -> tuple[int, tuple[str, ...]]:
        """How many pictures there are to calibrate on, and why others are left out."""
        reader = Reader(self.images)
        used = sum(1 for _ in reader.spread(self.max_images))
        return used, tuple(reader.skipped.values())

    def sparse(self, plan: Plan) -> nn.Module:
        """A copy of the model with `plan` applied, sparse at any size."""
        return apply(copy.deepcopy(self.model), plan.at_any_size())


def bench_of(
    model: nn.Module,
    images: Images,
    max_images: int = 16,
    folder: Path | None = None,
    how: How | None = None,
) -> Bench:
    """For a dense encoder; PlanError if a plan is applied to it."""
    if applied(model):
        raise PlanError("this starts from the dense model: call sparsight.restore(model) first")
    if not any(True for _ in model.parameters()):
        raise PlanError("this model has no weights")
    return Bench(model, family_of(model), images, max_images, folder, how or How())


def blank(plan: Plan, shapes: dict[str, tuple[int, ...]]) -> Plan:
    """`plan` with zeros for those tensors that it has not."""
    missing = {
        name: torch.zeros(shape, dtype=torch.float32, device="cpu")
        for name, shape in shapes.items()
        if name not in plan.weights
    }
    return plan.with_(weights=missing) if missing else plan
