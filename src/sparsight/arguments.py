"""Arguments of the public functions, checked against what the functions declare, before any work."""

import inspect
from collections.abc import Callable
from functools import cache, wraps
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from sparsight.errors import ArgumentError
from sparsight.extras import missing

if TYPE_CHECKING:
    from pydantic import TypeAdapter

TOLD = ("model", "what")  # whoever takes these says in words of its own what is wrong with them
Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def checked(function: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """`function`, which refuses in one sentence (ArgumentError) what its annotations do not allow.

    Numbers, texts, tuples and settings become what is declared, as in settings (a list does for a
    tuple).  Objects must be of the class.  What cannot be checked so, a protocol, is passed on.
    """

    @wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
        from pydantic import ValidationError

        from sparsight.data import complaint

        given = inspect.signature(function).bind(*args, **kwargs)
        for name, kind in _kinds(function).items():
            if name in given.arguments:
                try:
                    given.arguments[name] = kind.validate_python(given.arguments[name])
                except ValidationError as error:
                    raise ArgumentError(f"{_name(function)}, {name}: {complaint(error)}") from None
        try:
            return function(*given.args, **given.kwargs)
        except ImportError as error:
            raise missing(error) or error from None

    return call


def _name(function: Callable[..., Any]) -> str:
    """As one calls it."""
    return function.__qualname__.rpartition("<locals>.")[2].removesuffix(".__init__")


@cache
def _kinds(function: Callable[..., Any]) -> "dict[str, TypeAdapter[Any]]":
    """By the names of parameters, what checks them; of those that can be checked."""
    from typing import get_type_hints

    from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter
    from pydantic_core import SchemaError

    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in TOLD or parameter.annotation is parameter.empty:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        alone = SimpleNamespace(__annotations__={name: parameter.annotation})
        try:
            declared = get_type_hints(alone, function.__globals__, include_extras=True)[name]
            plain = isinstance(declared, type) and issubclass(declared, BaseModel)  # has its own
            config = None if plain else ConfigDict(arbitrary_types_allowed=True)
            found[name] = TypeAdapter(declared, config=config)
        except (NameError, TypeError, SchemaError, PydanticUserError):
            continue  # a type that is known to type checkers alone, or a protocol
    return found
