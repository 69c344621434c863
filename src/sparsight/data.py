"""Plain data: frozen, an unknown key is an error, and a wrong value is refused in one sentence."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sparsight.errors import ArgumentError

MOST = 2**31 - 1  # what a count may be: libraries overflow above
Count = Annotated[int, Field(ge=1, le=MOST)]
Side = Annotated[int, Field(ge=1, le=MOST, strict=True)]  # of a square; no text
Sides = Side | tuple[Count, Count]  # of a picture in pixels: height x width, or the side of a square
Seed = Annotated[int, Field(ge=0, le=MOST)]


def size_of(sides: Sides) -> tuple[int, int]:
    """Height and width."""
    return (sides, sides) if isinstance(sides, int) else sides


Size = Annotated[tuple[Count, Count], BeforeValidator(size_of)]  # in settings

if TYPE_CHECKING:  # who knows pydantic's constructors
    from pydantic._internal._model_construction import ModelMetaclass as _Refusing
else:

    class _Refusing(type(BaseModel)):
        """Of classes whose constructor says in one sentence what is wrong with its arguments."""

        def __call__(cls, *arguments: Any, **settings: Any) -> Any:
            try:
                return super().__call__(*arguments, **settings)
            except ValidationError as error:
                raise ArgumentError(f"{cls.__name__}: {complaint(error)}") from None


class Data(BaseModel, metaclass=_Refusing):
    """Frozen, strict plain data."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def complaint(error: ValidationError) -> str:
    """What pydantic found deepest inside of what was given: which key, and what is wrong with it.

    Of several kinds that are allowed, that is of the kind that fitted best.
    """
    first = max(error.errors(include_url=False), key=lambda found: len(found["loc"]))
    # pydantic's path also has the names of types that it tried, which are no identifiers
    key = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier())
    why = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] in ("value_error", "missing") else f", not {_short(first['input'])}"
    return f"{key}: {why}{given}" if key else f"{why}{given}"


def _short(value: Any, most: int = 60) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of somebody's class
        text = type(value).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."
