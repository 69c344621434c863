"""Blocks that need to see their own attention while tokens leave: run from the family's parts."""

from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparsight.methods.reduced import Reduced, ReducingBlock


class Attended(NamedTuple):
    """What one attention worked with and what its heads returned."""

    q: Tensor  # (b, heads, n, d)
    k: Tensor
    v: Tensor
    out: Tensor  # (b, n, heads, d)


class PartedBlock(ReducingBlock):
    """A block put together from its parts, with `after` between its attention and its MLP."""

    def after(
        self, x: Tensor, tokens: Tensor, q: Tensor, k: Tensor, state: Reduced
    ) -> tuple[Tensor, Tensor, Reduced]:
        """Tokens may leave between attention and MLP: all (b, n, c), those that go on, and which."""
        return x, tokens, state

    def inside(
        self, x: Tensor, tokens: Tensor, state: Reduced, host: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Reduced]:
        """Norm, attention, what `after` does, MLP."""
        tokens, seen = self.attend(tokens, state, host)
        x, tokens, state = self.after(x, tokens, seen.q, seen.k, state)
        return x, self._sparsight.family.parts.mlp(self, tokens), state

    def attend(self, tokens: Tensor, state: Reduced, host: dict[str, Any]) -> tuple[Tensor, Attended]:
        """The first half of the block."""
        family = self._sparsight.family
        parts, attn = family.parts, family.parts.attention(self)
        h = parts.norm(self, tokens)
        q, k, v = parts.qkv(attn, h, **self.tables(host, state.rows))
        out = scaled_dot_product_attention(q, k, v, attn_mask=weight_of(state, q)).transpose(1, 2)
        return parts.residual(self, tokens, parts.merge(attn, out, h)), Attended(q, k, v, out)


def weight_of(state: Reduced, q: Tensor) -> Tensor | None:
    """log s for every key, (b, 1, 1, k): a merged token counts as often as tokens went into it."""
    if state.size is None:
        return None
    return state.size.log()[:, None, None, :].to(q.dtype)
