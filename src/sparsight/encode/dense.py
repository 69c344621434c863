"""Does a model run dense?  Below its fewest tokens a sparse layer does, without a word."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from sparsight.inplace import STATE, is_changed


@contextmanager
def sparse_calls(model: nn.Module) -> Iterator[list[bool]]:
    """While in here, the list grows by a True for each changed module that is given enough tokens."""
    seen: list[bool] = []

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args[0].flatten(1, -2).shape[1] >= module.__dict__[STATE].config.min_tokens:
            seen.append(True)

    handles = [part.register_forward_pre_hook(hook) for part in model.modules() if is_changed(part)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
