"""The settings of SVE, as plain data."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sparsight.errors import PlanError
from sparsight.methods.base import (
    Fractions,
    Layers,
    Settings,
    at_layer,
    check_available,
    check_layers,
    fractions_text,
    layers_text,
    listed,
)
from sparsight.scores import ScoreName


class SVE(Settings):
    """Sparse attention in `layers`: a fraction `keep` of the tokens is global, the rest sees only it.

    Paper's symbol = name here: nk / N = `keep`; nq / N = `keep_queries` (`keep` if not given);
    S = `layers`; the layers that reuse a pattern = `groups`, of which the first layer ranks.
    Not in the paper: `completion`, a linear map beside the attention of the queries that see only the
    kept keys; other scores than average attention (`exact`, `sampled`, `linear`), of which `lattice`
    looks at no token.
    """

    layers: Layers | Literal["all", "auto"] = "auto"
    keep: Fractions = 1 / 8
    keep_queries: Fractions | None = None
    score: ScoreName = "sampled"
    sample_every: Annotated[int, Field(ge=1)] = 16  # `sampled` reads one query in so many
    groups: tuple[Layers, ...] = ()
    completion: Literal["none", "map"] = "none"

    @field_validator("layers", "groups", "keep", "keep_queries", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return listed(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_layers(self.layers, keep=self.keep, keep_queries=self.keep_queries)
        grouped = [layer for group in self.groups for layer in group]
        if grouped and not isinstance(self.layers, tuple):
            raise ValueError("groups need layers to be a list of numbers")
        if len(grouped) != len(set(grouped)):
            raise ValueError("a layer stands in two groups")
        for group in self.groups:
            if list(group) != list(range(group[0], group[0] + len(group))) if group else True:
                raise ValueError(f"a group is a run of consecutive layers, not {list(group)}")
        if not set(grouped) <= set(self.layers):
            raise ValueError(
                f"groups name layers that are not sparse: {sorted(set(grouped) - set(self.layers))}"
            )
        return self

    @property
    def named_layers(self) -> Layers:
        """`layers` as numbers; only after "all" or "auto" have been resolved."""
        if isinstance(self.layers, str):
            raise ValueError(f"layers={self.layers!r} has not been resolved against a model")
        return self.layers

    def resolved(self, available: Layers, depth: int) -> Self:
        """With `layers` as numbers."""
        if self.layers == "auto":
            raise PlanError(
                'layers="auto" needs calibration: run sparsight.optimize(model, images), or name the '
                "layers"
            )
        if self.layers == "all":
            return self.model_copy(update={"layers": available})
        check_available(self.named_layers, available, depth)
        return self

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """Half and three quarters of the layers, the least harmful ones; then the same completed."""
        counts = sorted({max(1, round(len(ranking) * share)) for share in (1 / 2, 3 / 4)})
        few = {"keep": 3 / 16, "keep_queries": 1 / 32, "sample_every": 32}
        rows = [cls(layers=tuple(sorted(ranking[:count])), **few) for count in counts]  # type: ignore[arg-type]
        return (*rows, *(row.completed() for row in rows))

    def label(self) -> str:
        """Layers and fractions."""
        more = ", map" * (self.completion == "map") + ", reuse" * bool(self.groups)
        return f"{layers_text(self.layers)} keep {fractions_text(self.keep)}, {self.score}{more}"

    def changed_layers(self, available: Layers) -> Layers:
        """Those that are sparse."""
        return self.named_layers

    def kept_at(self, layer: int) -> tuple[float, float]:
        """The fractions of queries and of keys that a sparse layer keeps."""
        queries = self.keep if self.keep_queries is None else self.keep_queries
        layers = self.named_layers
        return at_layer(queries, layers, layer), at_layer(self.keep, layers, layer)

    def followers(self) -> dict[int, int]:
        """For each layer that reuses a pattern, the layer that ranks for it."""
        return {layer: group[0] for group in self.groups for layer in group[1:]}
