"""The final tokens of a model that no file describes."""

from collections.abc import Iterator, Mapping
from threading import get_ident
from typing import Any

from torch import Tensor

from sparsight.families.inputs import inputs_of
from sparsight.families.parts import Host
from sparsight.families.window_blocks import rows_of


def final_rows(model: Host, pictures: Tensor, last: Host, dim: int, flat: bool) -> Tensor:
    """(b, n, c): what the model returns, if that has a row for each token of its last block.

    Else what that block returned: many towers pool or merge their tokens, or return maps.
    """
    thread, given = get_ident(), []  # pictures may run in turns, each in a thread of its own

    def see(block: Any, args: Any, output: Any) -> None:
        if get_ident() == thread:
            given.append(next(_tensors(output)))

    handle = last.register_forward_hook(see)
    arguments = inputs_of(model, pictures, flat)
    try:
        if hasattr(model, "forward_features"):  # timm's, without the head
            output = model.forward_features(*arguments.values())
        else:
            output = model(**arguments)
    finally:
        handle.remove()
    rows = as_rows(rows_of(last, given[-1]), dim, len(pictures))
    for found in _tensors(output):
        if found.shape == given[-1].shape:
            return as_rows(rows_of(last, found), dim, len(pictures))
        if found.ndim > 1 and found.shape[:-1].numel() == rows.shape[:-1].numel():
            return found.reshape(*rows.shape[:-1], found.shape[-1])
    return rows


def as_rows(tokens: Tensor, dim: int, batch: int) -> Tensor:
    """(batch, n, c) of tokens packed (sum, c), in rows, or in maps with channels last or first."""
    if tokens.ndim == 4 and tokens.shape[3] != dim and tokens.shape[1] == dim:
        tokens = tokens.permute(0, 2, 3, 1)
    return tokens.reshape(batch, -1, tokens.shape[-1])


def _tensors(output: Any) -> Iterator[Tensor]:
    """All tensors of an output, in its order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
