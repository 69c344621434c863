"""A transformer block with SVE's sparse attention, in place of the dense one.

    index = argsort(m)                                   (Eq. 3)
    O = permute(Attention(Q', K', V', mask), inverse(index))   (Eq. 4-9)

Not only Q, K and V are permuted but the residual stream: norms and MLP do not care about order, so a
group of layers that share a pattern works on permuted tokens throughout.  What a block returns is in
the original order all the same, because hooks, `forward_intermediates` and other blocks may look at
it; the permuted tokens travel beside it, as an attribute of the returned tensor, for the next layer of
the group to go on from.  Under torch.compile the restored copies nobody reads disappear.

Inside, tokens are rows (b, n, c), whether the host has them so or as (b, height, width, c).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.families import Family
from sparsight.methods.sve import score
from sparsight.methods.sve.config import SVE
from sparsight.ops.attention import sparse_attention
from sparsight.ops.partition import inverse, kept_count, rank, take, take_heads, take_positions

CARRY = "_sparsight_carry"
_MODULE_STATE = tuple(nn.Module().__dict__)


@dataclass
class Carry:
    """What a layer hands to the next of its group, beside the tokens in original order."""

    order: Tensor  # (b, n)
    undo: Tensor  # (b, n), inverse(order)
    tokens: Tensor | None  # (b, n, c) in ranked order; None where somebody may have changed them


class SparseBlock(nn.Module):
    """Runs `original` sparsely.  Children, parameters and hooks are the original's own objects.

    So state-dict keys, `.to()`, `.train()` and hooks behave as on the block itself, and giving the
    block back is all there is to restoring it.
    """

    def __init__(
        self, original: nn.Module, family: Family, prefix: int, config: SVE, layer: int,
        projector: Tensor | None,
    ) -> None:  # fmt: skip
        super().__init__()
        for name in _MODULE_STATE:
            self.__dict__[name] = original.__dict__[name]
        self.__dict__["original"] = original  # not as a child, which would change the keys
        self.family, self.prefix, self.config, self.layer = family, prefix, config, layer
        self.reuses = layer in config.followers()
        self.feeds = layer + 1 in config.followers()  # groups are runs, so it is of the same group
        self.projector = projector  # (c,) for `linear`, else None

    def forward(self, x: Tensor, **host: Any) -> Tensor:
        """`original(x, **host)` with sparse attention; dense where that pays more or a mask is given."""
        rows = x.flatten(1, -2)
        n = rows.shape[1]
        global_queries, kept_keys = self.counts(n)
        masked = host.get("attn_mask") is not None or host.get("is_causal", False)
        if n < self.config.min_tokens or global_queries == n or kept_keys == n or masked:
            return self.original.forward(x, **host)

        tables = {k: host[k] for k in self.family.per_token if host.get(k) is not None}
        carry: Carry | None = getattr(x, CARRY, None) if self.reuses else None
        if carry is None:
            carry, (tokens, h, q, k, v) = self._enter(rows, tables)
        else:
            tokens, h, q, k, v = self._go_on(rows, carry, tables)
        parts = self.family.parts
        out = sparse_attention(q, k, v, global_queries, kept_keys)
        tokens = parts.residual(self, tokens, parts.merge(self, out, h))
        tokens = parts.mlp(self, tokens)
        restored = take(tokens, carry.undo).view(x.shape)
        if self.feeds:
            # A hook may change what it is shown; gradient checkpointing may run the next layer twice.
            kept = None if self._forward_hooks or restored.requires_grad else tokens
            setattr(restored, CARRY, Carry(carry.order, carry.undo, kept))
        return restored

    def _enter(self, x: Tensor, tables: dict[str, Tensor]) -> tuple[Carry, tuple[Tensor, ...]]:
        """Rank the tokens and bring all that belongs to them into that order."""
        parts = self.family.parts
        h = parts.norm(self, x)
        if self.config.scorer == "linear":
            assert self.projector is not None  # checked before the plan was applied
            order = rank(score.linear(h, self.projector), self.prefix)
            h = take(h, order)
            qkv = parts.qkv(self, h, **self._sorted(tables, order))
        else:
            q, k, v = parts.qkv(self, h, **tables)
            order = rank(self.score(q, k), self.prefix)
            h = take(h, order)
            qkv = (take_heads(q, order), take_heads(k, order), take_heads(v, order))
        return Carry(order, inverse(order), None), (take(x, order), h, *qkv)

    def _go_on(self, x: Tensor, carry: Carry, tables: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Take over the order of the layer before, and its permuted tokens if they are still good."""
        parts, tokens = self.family.parts, carry.tokens
        if tokens is None or self._forward_pre_hooks:
            tokens = take(x, carry.order)
        carry.tokens = None
        h = parts.norm(self, tokens)
        return tokens, h, *parts.qkv(self, h, **self._sorted(tables, carry.order))

    def _sorted(self, tables: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
        return {name: take_positions(t, order, self.prefix) for name, t in tables.items()}

    def counts(self, tokens: int) -> tuple[int, int]:
        """nq and nk for this many tokens."""
        queries = self.config.keep_queries or self.config.keep
        return (
            kept_count(tokens, queries, self.prefix),
            kept_count(tokens, self.config.keep, self.prefix),
        )

    @torch.no_grad()
    def score(self, q: Tensor, k: Tensor) -> Tensor:
        """m or its estimate from a sample, (b, n).  A ranking has no gradient."""
        if self.config.scorer == "exact":
            return score.exact(q, k)
        return score.sampled(q, k, self.prefix, self.config.sample_every)

    def train(self, mode: bool = True) -> "SparseBlock":
        """As on any module, the original included."""
        self.original.training = mode
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> "SparseBlock":
        """`.to()` and its like also move the projector, which is no part of the state dict."""
        super()._apply(fn, recurse)
        if self.projector is not None:
            self.projector = fn(self.projector)
        return self

    def __getattr__(self, name: str) -> Any:
        """What this module does not have, the original has."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["original"], name)
