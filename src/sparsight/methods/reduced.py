"""Blocks that go on with fewer tokens than there are, and return all of them nevertheless.

What a block returns has every token in its own place: one that left has its last value, one that was
merged has the value of the token it went into.  So a hook, `forward_intermediates` and a dense head see
the usual shapes.  Which tokens go on travels beside it, as an attribute of the returned tensor; the next
block takes those out again, one gather of rows, far below the attention it saves.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparsight.errors import SparsightError
from sparsight.methods.wrapped import WrappedBlock
from sparsight.ops.partition import put, take, take_positions

CARRY = "_sparsight_reduced"


@dataclass(frozen=True)
class Reduced:
    """Which tokens go on.  Prefix tokens are the first of them, always."""

    rows: Tensor  # (b, k), the place of each among all n tokens
    group: Tensor | None = None  # (b, n), if tokens were merged: which of the k each is part of
    size: Tensor | None = None  # (b, k), how many tokens each stands for

    def put_back(self, x: Tensor, tokens: Tensor) -> Tensor:
        """All tokens (b, n, c): `tokens` (b, k, c) in their places, the others as in `x`."""
        return put(x, self.rows, tokens) if self.group is None else take(tokens, self.group)


class ReducingBlock(WrappedBlock):
    """Runs `original` on the tokens that go on; a method says where and how they become fewer."""

    def before(self, x: Tensor, state: Reduced) -> Reduced:
        """Tokens may leave before the attention: `x` (b, n, c) is all of them."""
        return state

    def after(
        self, x: Tensor, tokens: Tensor, q: Tensor, k: Tensor, state: Reduced
    ) -> tuple[Tensor, Tensor, Reduced]:
        """Tokens may leave between attention and MLP: all (b, n, c), those that go on, and which."""
        return x, tokens, state

    def forward(self, x: Tensor, *args: Any, **host: Any) -> Tensor:
        """`original(x, ...)` on fewer tokens; dense below `min_tokens` and where a mask is given.

        Raises SparsightError if attention maps are asked for, since there is none of all tokens.
        """
        host |= zip(self.arguments, args, strict=False)
        b, n, _ = x.shape
        if n < self.config.min_tokens or host.get(self.family.mask) is not None or self.idle(n):
            return self.original.forward(x, **host)
        if host.get("output_attentions") or self.family.wants_maps(self):
            raise SparsightError(
                f"layer {self.layer} has no attention map of all tokens: call without "
                "output_attentions, or restore the model first"
            )
        parts, state = self.family.parts, getattr(x, CARRY, None)
        if state is None:
            state = Reduced(torch.arange(n, device=x.device).expand(b, n))
        state = self.before(x, state)
        tokens = take(x, state.rows)
        h = parts.norm(self, tokens)
        q, k, v = parts.qkv(self, h, **self.tables(host, state.rows))
        out = scaled_dot_product_attention(q, k, v, attn_mask=weight_of(state, q)).transpose(1, 2)
        tokens = parts.residual(self, tokens, parts.merge(self, out, h))
        x, tokens, state = self.after(x, tokens, q, k, state)
        restored = state.put_back(x, parts.mlp(self, tokens))
        setattr(restored, CARRY, state)
        return restored

    def idle(self, tokens: int) -> bool:
        """Whether the settings let all of so many tokens go on, so that the block is the dense one."""
        return False

    def tables(self, host: dict[str, Any], rows: Tensor) -> dict[str, Any]:
        """Per-token tables (rotary embeddings), each a tensor or a tuple of them, of the tokens left."""

        def taken(table: Any) -> Any:
            if isinstance(table, tuple):
                return tuple(map(taken, table))
            return take_positions(table, rows, self.prefix)

        return {k: taken(host[k]) for k in self.family.per_token if host.get(k) is not None}


def weight_of(state: Reduced, q: Tensor) -> Tensor | None:
    """log s for every key, (b, 1, 1, k): a merged token counts as often as tokens went into it."""
    if state.size is None:
        return None
    return state.size.log()[:, None, None, :].to(q.dtype)
