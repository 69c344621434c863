"""What every method's settings have in common."""

from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import Field

from sparsight.data import Data
from sparsight.errors import PlanError

Fraction = Annotated[float, Field(gt=0, le=1)]
Fractions = Fraction | tuple[Fraction, ...]  # one for all layers that are named, or one for each
Layers = tuple[Annotated[int, Field(ge=0)], ...]
Recover = Annotated[int, Field(ge=2)] | None  # one in so many of the tokens that would leave stays

# For plans without calibration.  Well above the 401 tokens from which the embedded encoder gained where
# its plan was made; `optimize` measures it for the model and machine at hand.
MIN_TOKENS = 1024


class Settings(Data):
    """The settings of a method, as plain data: frozen, and an unknown key is an error."""

    min_tokens: Annotated[int, Field(ge=0)] = MIN_TOKENS  # below it a layer runs dense

    def resolved(self, available: Layers, depth: int) -> Self:
        """The same with every layer named, for a model of `depth` layers, if it works on `available`.

        Raises PlanError if the settings do not fit.
        """
        raise NotImplementedError

    def changed_layers(self, available: Layers) -> Layers:
        """The layers in which something is changed; of resolved settings."""
        raise NotImplementedError

    @classmethod
    def ladder(cls, ranking: Layers) -> tuple[Self, ...]:
        """Settings to compare, mild ones first, that need no training; none if all need it.

        `ranking` holds the layers the method can work on, the least harmful first.
        """
        return ()

    def label(self) -> str:
        """What distinguishes these settings, in a few words."""
        raise NotImplementedError

    @property
    def depends_on_picture(self) -> bool:
        """Whether how many tokens go on depends on what a picture shows, beside its size."""
        return False

    def completed(self) -> Self:
        """With the map that repairs most of what the settings lose, where the method can have one."""
        has_map = "completion" in type(self).model_fields
        return self.model_copy(update={"completion": "map"}) if has_map else self

    def at_any_size(self) -> Self:
        """The same without a dense fallback, for adapting and judging the sparse path itself."""
        return self.model_copy(update={"min_tokens": 0})


def listed(value: Any) -> Any:
    """Ranges, lists and other iterables of numbers as tuples."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict):
        try:
            return tuple(tuple(v) if isinstance(v, range | list) else v for v in value)
        except TypeError:  # a tensor of one number says that it is iterable
            return value
    return value


def check_rising(layers: Layers, what: str) -> None:
    """ValueError unless `layers` rise and do not repeat."""
    if list(layers) != sorted(set(layers)):
        raise ValueError(f"{what} must rise and not repeat, not {list(layers)}")


def check_named(layers: Layers | None, what: str) -> None:
    """ValueError if layers are named (None: they are chosen) and are none, or do not rise."""
    if layers is None:
        return
    if not layers:
        raise ValueError(f"{what} is empty: name at least one layer, or leave it out")
    check_rising(layers, what)


def check_looked_at(stages: Layers | None) -> None:
    """ValueError if tokens were to leave by an attention before the first layer."""
    if stages and stages[0] == 0:
        raise ValueError("no token can leave before layer 0: no attention has looked at it yet")


def resolved_layers(layers: Layers | None) -> Layers:
    """`layers` as numbers; ValueError before they have been resolved against a model."""
    if layers is None:
        raise ValueError("the layers have not been resolved against a model")
    return layers


def check_layers(layers: Layers | str, **each: Fractions | None) -> None:
    """ValueError unless named layers rise, and what is given for `each` has as many values."""
    if isinstance(layers, tuple):
        if not layers:
            raise ValueError("layers is empty: name at least one, or 'all'")
        check_rising(layers, "layers")
    for name, given in each.items():
        if isinstance(given, tuple) and len(given) != len(layers):
            raise ValueError(f"{name} has {len(given)} values for the layers {layers}")


def at_layer(given: Fractions, layers: Layers, layer: int) -> float:
    """The fraction that is given for one of `layers`."""
    return given[layers.index(layer)] if isinstance(given, tuple) else given


def fractions_text(given: Fractions) -> str:
    """As a label has them."""
    values = sorted(set(given)) if isinstance(given, tuple) else [given]
    return " to ".join(f"{value:.4g}" for value in values)


def layers_text(layers: Layers | str) -> str:
    """How many, as a label has it."""
    if isinstance(layers, str):
        return f"{layers} layers"
    return f"{len(layers)} layer" + "s" * (len(layers) != 1)


def check_recover(recover: int | None, shares: Iterable[float]) -> None:
    """ValueError if more would stay by `recover` alone than one of the `shares` of the tokens there."""
    if recover is not None and (least := min(shares)) <= 1 / recover:
        raise ValueError(
            f"recover={recover} alone keeps 1/{recover} of the tokens there, and {least:.3g} of them "
            "are to stay: raise keep or recover"
        )


def check_available(layers: Layers, available: Layers, depth: int) -> None:
    """Raise PlanError if a method cannot work on one of `layers` of a model of `depth` layers."""
    if layers and max(layers) >= depth:
        raise PlanError(
            f"the plan names layer {max(layers)}, but this model has layers 0 to {depth - 1}"
        )
    if missing := [layer for layer in layers if layer not in available]:
        raise PlanError(
            f"layer {missing[0]} of this model attends within windows or pools, and this method cannot "
            f"change it: name some of the layers with global attention, {', '.join(map(str, available))}"
        )


def check_everywhere(available: Layers, depth: int, what: str) -> None:
    """Raise PlanError unless every layer attends globally, as it must where tokens leave for good."""
    if len(available) < depth:
        raise PlanError(
            f"{what} needs global attention in every layer, and this model has windows or pooling, "
            "which need the whole grid of tokens: use SVE on its global layers"
        )


def quarters(depth: int) -> Layers:
    """The layers at one, two and three quarters of the depth: where tokens leave by default."""
    return tuple(sorted({depth * quarter // 4 for quarter in (1, 2, 3)} - {0}))
