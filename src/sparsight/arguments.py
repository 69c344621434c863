"""Arguments of the public functions, checked against what the functions declare, before any work."""

import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from sparsight.errors import ArgumentError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

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
                    raise ArgumentError(f"{function.__name__}, {name}: {complaint(error)}") from None
        return function(*given.args, **given.kwargs)

    return call


@cache
def _kinds(function: Callable[..., Any]) -> "dict[str, TypeAdapter[Any]]":
    """By the names of parameters, what checks them; of those that can be checked."""
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter
    from pydantic_core import SchemaError

    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.annotation is parameter.empty or parameter.kind is parameter.VAR_KEYWORD:
            continue
        try:
            declared = parameter.annotation
            if isinstance(declared, str):
                declared = eval(declared, function.__globals__)
            found[name] = TypeAdapter(declared, config=ConfigDict(arbitrary_types_allowed=True))
        except (NameError, TypeError, SchemaError, PydanticUserError):
            continue  # a type that is known to type checkers alone, or a protocol
    return found
