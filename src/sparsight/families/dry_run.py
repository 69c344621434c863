"""One dry run of a model: which of its modules attend, in which order, to how many tokens, behind what.

Linear layers give zeros, so that it takes a fraction of a forward pass; nothing is kept of the values.
Attention gives rows that can be told apart, which shows what reads them.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from sparsight.families.by_hand import calling
from sparsight.families.calls import sdpa_settings, with_heads, with_settings
from sparsight.families.decomposed import caught_sum
from sparsight.families.projection import holds, told_apart
from sparsight.modes import evaluating
from sparsight.ops.segments import segments_of


@dataclass
class Seen:
    """What one module did: of each call the batch, heads, tokens and whether all see all."""

    module: nn.Module
    calls: list[tuple[int, int, int, bool]] = field(default_factory=list)
    biased: bool = False  # behind a mask that does more than keep pictures apart
    reads: tuple[int, ...] = ()  # the shape of its first argument
    gives: tuple[int, ...] = ()  # and of its result
    result: Tensor | None = None  # of the last call, as rows, while it runs
    readers: list[Tensor] = field(default_factory=list)  # weights of linear layers that were given it

    @property
    def tokens(self) -> int:
        """In all calls."""
        return sum(batch * tokens for batch, _, tokens, _ in self.calls)

    @property
    def whole(self) -> bool:
        """Whether it sees all of one picture's tokens at once, each of them as query and key."""
        one = {(batch, tokens) for batch, _, tokens, _ in self.calls}
        rows = torch.Size(self.reads[:-1]).numel(), torch.Size(self.reads[2:]).numel()  # last or first
        return (
            len(one) == 1
            and self.calls[0][2] in rows  # and not channels that attend to each other (XCiT)
            and self.calls[0][0] == 1
            and len(self.calls) <= 2  # two: the difference of two maps (differential attention)
            and all(plain for *_, plain in self.calls)
        )

    @property
    def reads_tokens(self) -> bool:
        """Whether it reads and returns a row for each token, of one width."""
        alike = self.reads == self.gives and len(self.calls) == 1
        return alike and torch.Size(self.reads[:-1]).numel() == self.tokens


class _Hollow(TorchFunctionMode):
    """Linear layers give zeros of the right shape, attention rows that can be told apart."""

    def __init__(self, running: list[tuple[nn.Module, tuple[int, ...]]]) -> None:
        super().__init__()
        self.running, self.seen = running, dict[nn.Module, Seen]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Anything else runs as it is."""
        if func is scaled_dot_product_attention:
            return with_heads(self.attend, self.running[-1][0], *args, **(kwargs or {}))
        if (bias := caught_sum(func, args)) is not None:
            return bias
        if func is F.linear and len(args) > 1 and args[0].shape[-1] == args[1].shape[-1]:
            for seen in self.seen.values():
                if seen.result is not None and holds(args[0], seen.result):
                    seen.readers.append(args[1])
            return args[0].new_zeros(*args[0].shape[:-1], len(args[1]))
        return func(*args, **(kwargs or {}))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
        is_causal: bool = False, **_: Any,
    ) -> Tensor:  # fmt: skip
        """Notes the call."""
        module, shape = self.running[-1]
        seen = self.seen.setdefault(module, Seen(module, reads=shape))
        plain = q.ndim == 4 and k.shape[-2] == q.shape[-2] and not is_causal
        if plain and isinstance(attn_mask, Tensor):
            parts = segments_of(attn_mask, len(q), q.shape[2])
            seen.biased = seen.biased or parts is None
            plain = parts is not None and len(parts) == 1
        batch, heads = (q.shape[0], q.shape[1]) if q.ndim == 4 else (0, 0)
        seen.calls.append((batch, heads, q.shape[-2], plain))
        found = told_apart(q.new_empty(*q.shape[:-1], v.shape[-1]))
        seen.result = found.transpose(-3, -2).flatten(-2)
        return found


def dry_run(model: nn.Module, arguments: dict[str, Any]) -> list[Seen]:
    """The modules of `model` that attend, in their order.  Raises what the model raises."""
    running: list[tuple[nn.Module, tuple[int, ...]]] = []
    hollow = _Hollow(running)

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        first = args[0] if args else next(iter(kwargs.values()), None)
        running.append((module, tuple(first.shape) if isinstance(first, Tensor) else ()))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        running.pop()
        given = output[0] if isinstance(output, tuple) and output else output
        if module in hollow.seen:
            hollow.seen[module].result = None
            if isinstance(given, Tensor):
                hollow.seen[module].gives = tuple(given.shape)

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(calling(model))
        for module in model.modules():
            if settings := sdpa_settings(module):
                stack.enter_context(with_settings(module, settings))
            handles = (
                module.register_forward_pre_hook(enter, with_kwargs=True),
                module.register_forward_hook(leave, always_call=True),
            )
            for handle in handles:
                stack.callback(handle.remove)
        with hollow:
            model(**arguments)
    return list(hollow.seen.values())
