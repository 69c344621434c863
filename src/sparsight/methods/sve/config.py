"""The settings of SVE, as plain data."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sparsight.errors import PlanError
from sparsight.methods.base import Fraction, Layers, Settings, check_available

if TYPE_CHECKING:
    from torch import nn

    from sparsight.families import Family

Fractions = Fraction | tuple[Fraction, ...]  # one for all sparse layers, or one for each


class SVE(Settings):
    """Sparse attention in `layers`: a fraction `keep` of the tokens is global, the rest sees only it.

    Paper's symbol = name here: nk / N = `keep`; nq / N = `keep_queries` (`keep` if not given);
    S = `layers`; the layers that reuse a pattern = `groups`, of which the first layer ranks.
    Not in the paper: `mlp_keep`, the fraction of the tokens that go through the MLP in sparse layers,
    those of the highest score, or those that stand out (`mlp_by`).  The others take the residual path,
    alone or with a linear map fitted to the MLP (`mlp_rest`).
    """

    layers: Layers | Literal["all", "auto"] = "auto"
    keep: Fractions = 1 / 8
    keep_queries: Fractions | None = None
    mlp_keep: Fractions = 1.0
    mlp_by: Literal["attention", "salience"] = "attention"
    mlp_rest: Literal["residual", "linear"] = "residual"
    scorer: Literal["exact", "sampled", "linear"] = "sampled"
    sample_every: Annotated[int, Field(ge=1)] = 16  # `sampled` reads one query in so many
    groups: tuple[Layers, ...] = ()

    @field_validator("layers", "groups", "keep", "keep_queries", "mlp_keep", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Accept ranges, lists and other iterables of numbers."""
        if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict):
            return tuple(tuple(v) if isinstance(v, range | list) else v for v in value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.layers, tuple):
            if not self.layers:
                raise ValueError("layers is empty: name at least one, or 'all'")
            if list(self.layers) != sorted(set(self.layers)):
                raise ValueError(f"layers must rise and not repeat, not {list(self.layers)}")
        for name in ("keep", "keep_queries", "mlp_keep"):
            given = getattr(self, name)
            if isinstance(given, tuple) and len(given) != len(self.layers):
                raise ValueError(f"{name} has {len(given)} values for the layers {self.layers}")
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
        """More and more layers, the least harmful first; then the same with a quarter in the MLP."""
        counts = sorted({max(1, round(len(ranking) * share)) for share in (1 / 3, 1 / 2, 3 / 4, 1)})
        rows = [cls(layers=tuple(sorted(ranking[:count])), keep=3 / 16) for count in counts]
        few = {"keep_queries": 1 / 32, "sample_every": 32}
        rows = [row.model_copy(update=few) for row in rows]
        return (*rows, *(row.routed(1 / 4) for row in rows))

    def label(self) -> str:
        """Layers and fractions."""

        def text(given: Fractions) -> str:
            values = sorted(set(given)) if isinstance(given, tuple) else [given]
            return " to ".join(f"{value:.4g}" for value in values)

        routed = f", {text(self.mlp_keep)} through the MLP" if self.routes else ""
        groups = ", reuse" if self.groups else ""
        return f"{len(self.layers)} layers keep {text(self.keep)}{routed}, {self.scorer}{groups}"

    def routed(self, fraction: float) -> Self:
        """The same with so many tokens in the MLP of sparse layers, in the way that costs least."""
        way = {"mlp_keep": fraction, "mlp_by": "salience", "mlp_rest": "linear"}
        return self.model_copy(update=way)

    @property
    def routes(self) -> bool:
        """Whether some tokens skip the MLP of a sparse layer."""
        return self.mlp_keep not in (1.0, (1.0,) * len(self.layers))

    def changed_layers(self, available: Layers) -> Layers:
        """Those that are sparse."""
        return self.named_layers

    def kept_at(self, layer: int) -> tuple[float, float, float]:
        """The fractions of queries, keys and tokens in the MLP that a sparse layer keeps."""
        queries = self.keep if self.keep_queries is None else self.keep_queries
        place = self.named_layers.index(layer)

        def at(given: Fractions) -> float:
            return given[place] if isinstance(given, tuple) else given

        return at(queries), at(self.keep), at(self.mlp_keep)

    def followers(self) -> dict[int, int]:
        """For each layer that reuses a pattern, the layer that ranks for it."""
        return {layer: group[0] for group in self.groups for layer in group[1:]}


def projector_name(layer: int) -> str:
    """Under which name the projector of a layer is saved."""
    return f"sve.projector.{layer}"


def map_name(layer: int) -> str:
    """Under which name the linear map that stands in for the MLP of a layer is saved."""
    return f"sve.mlp.{layer}"


def tensors(config: SVE, model: "nn.Module", family: "Family") -> dict[str, tuple[int, ...]]:
    """What a plan must bring: projectors (c,) of the layers that rank by them, maps (c + 1, c)."""
    dims: dict[int, int] = {n: family.dim(family.blocks(model)[n]) for n in config.named_layers}
    projectors: dict[str, tuple[int, ...]] = {
        projector_name(n): (dim,)
        for n, dim in dims.items()
        if config.scorer == "linear" and n not in config.followers()
    }
    maps: dict[str, tuple[int, ...]] = {
        map_name(n): (dim + 1, dim)
        for n, dim in dims.items()
        if config.mlp_rest == "linear" and config.kept_at(n)[2] < 1
    }
    return projectors | maps
