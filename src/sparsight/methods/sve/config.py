"""The settings of SVE, as plain data."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(gt=0, le=1)]
Layers = tuple[Annotated[int, Field(ge=0)], ...]

# For plans without calibration.  Well above the 401 tokens from which the embedded encoder gained where
# its plan was made; `optimize` measures it for the model and machine at hand (benchmarks/crossover.py).
MIN_TOKENS = 1024


class SVE(BaseModel):
    """Sparse attention in `layers`: a fraction `keep` of the tokens is global, the rest sees only it.

    Paper's symbol = name here: nk / N = `keep`; nq / N = `keep_queries` (`keep` if not given);
    S = `layers`; the layers that reuse a pattern = `groups`, of which the first layer ranks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: Layers | Literal["all", "auto"] = "auto"
    keep: Fraction = 1 / 8
    keep_queries: Fraction | None = None
    scorer: Literal["exact", "sampled", "linear"] = "sampled"
    sample_every: Annotated[int, Field(ge=1)] = 16  # `sampled` reads one query in so many
    groups: tuple[Layers, ...] = ()
    min_tokens: Annotated[int, Field(ge=0)] = MIN_TOKENS  # below it a layer runs dense

    @field_validator("layers", "groups", mode="before")
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

    def at_any_size(self) -> Self:
        """The same without a dense fallback, for adapting and judging the sparse path itself."""
        return self.model_copy(update={"min_tokens": 0})

    def followers(self) -> dict[int, int]:
        """For each layer that reuses a pattern, the layer that ranks for it."""
        return {layer: group[0] for group in self.groups for layer in group[1:]}
