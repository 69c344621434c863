"""A transformer block with SVE's sparse attention, in place of the dense one.

    index = argsort(m)                                   (Eq. 3)
    O = permute(Attention(Q', K', V', mask), inverse(index))   (Eq. 4-9)

Not only Q, K and V are permuted but the residual stream: norms and MLP do not care about order, so a
group of layers that share a pattern works on permuted tokens throughout.  What a block returns is in
the original order all the same, because hooks, `forward_intermediates` and other blocks may look at
it; the permuted tokens travel beside it, as an attribute of the returned tensor, for the next layer of
the group to go on from.  Under torch.compile the restored copies nobody reads disappear.

With `mlp_keep` below 1 only that many tokens go through the MLP, those of the highest score or those
that stand out; for the others nothing takes its place, or a linear map fitted to it (stages/route.py).

Inside, tokens are rows (b, n, c), whether the host has them so or as (b, height, width, c).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparsight.errors import SparsightError
from sparsight.families import Family
from sparsight.methods.sve import score
from sparsight.methods.sve.config import SVE, map_name, projector_name
from sparsight.methods.wrapped import WrappedBlock
from sparsight.ops.attention import sparse_attention
from sparsight.ops.partition import inverse, kept_count, put, rank, take, take_heads, take_positions
from sparsight.ops.routing import mapped, standout

CARRY = "_sparsight_carry"
PROJECTOR = "projector"  # (c,), of a layer that ranks by `linear`
MAP = "map"  # (c + 1, c), stands in for the MLP where tokens skip it


@dataclass
class Carry:
    """What a layer hands to the next of its group, beside the tokens in original order."""

    order: Tensor  # (b, n)
    undo: Tensor  # (b, n), inverse(order)
    tokens: Tensor | None  # (b, n, c) in ranked order; None where somebody may have changed them


class SparseBlock(WrappedBlock):
    """Runs `original` sparsely; its tensors are its projector and its map, if it has them."""

    OWN: ClassVar = WrappedBlock.OWN | {"reuses", "feeds"}

    config: SVE

    def __init__(
        self, original: nn.Module, family: Family, prefix: int, config: SVE, layer: int,
        tensors: dict[str, Tensor],
    ) -> None:  # fmt: skip
        leader = projector_name(config.followers().get(layer, layer))
        named = {PROJECTOR: leader, MAP: map_name(layer)}
        own = {name: tensors[key] for name, key in named.items() if key in tensors}
        if config.mlp_rest == "residual":
            own.pop(MAP, None)
        super().__init__(original, family, prefix, config, layer, own)
        self.reuses = layer in config.followers()
        self.feeds = layer + 1 in config.followers()  # groups are runs, so it is of the same group

    def forward(self, x: Tensor, *args: Any, **host: Any) -> Tensor:
        """`original(x, ...)` with sparse attention; dense where that pays more or a mask is given.

        Raises SparsightError if attention maps are asked for, since a sparse layer has none, and when
        reentrant gradient checkpointing has lost the pattern it shares with the layer before.
        """
        host |= zip(self.arguments, args, strict=False)
        rows = x.flatten(1, -2)
        n = rows.shape[1]
        global_queries, kept_keys, kept_mlp = self.counts(n)
        everything = n in (global_queries, kept_keys) and kept_mlp == n
        masked = host.get(self.family.mask) is not None or host.get("is_causal", False)
        if n < self.config.min_tokens or everything or masked:
            return self.original.forward(x, **host)
        if host.get("output_attentions") or self.family.wants_maps(self):
            raise SparsightError(
                f"layer {self.layer} is sparse and has no attention map: call without "
                "output_attentions, or restore the model first"
            )

        tables = {k: host[k] for k in self.family.per_token if host.get(k) is not None}
        carry: Carry | None = getattr(x, CARRY, None) if self.reuses else None
        if self.reuses and carry is None and x.is_leaf and x.requires_grad:
            raise SparsightError(  # its recomputation detaches x, so the pattern would be another one
                f"layer {self.layer} reuses the pattern of the layer before, which gradient "
                "checkpointing with use_reentrant=True loses: choose use_reentrant=False"
            )
        if carry is None:
            carry, (tokens, h, q, k, v) = self._enter(rows, tables)
        else:
            tokens, h, q, k, v = self._go_on(rows, carry, tables)
        parts = self.family.parts
        out = sparse_attention(q, k, v, global_queries, kept_keys)
        tokens = parts.residual(self, tokens, parts.merge(self, out, h))
        tokens = parts.mlp(self, tokens) if kept_mlp == n else self._routed(tokens, kept_mlp)
        restored = take(tokens, carry.undo).view(x.shape)
        if self.feeds:
            # A hook may change what it is shown; gradient checkpointing may run the next layer twice.
            kept = None if self._forward_hooks or restored.requires_grad else tokens
            setattr(restored, CARRY, Carry(carry.order, carry.undo, kept))
        return restored

    def _enter(self, x: Tensor, tables: dict[str, Any]) -> tuple[Carry, tuple[Tensor, ...]]:
        """Rank the tokens and bring all that belongs to them into that order."""
        parts = self.family.parts
        h = parts.norm(self, x)
        if self.config.scorer == "linear":
            order = rank(score.linear(h, self.tensors[PROJECTOR]), self.prefix)
            h = take(h, order)
            qkv = parts.qkv(self, h, **self._sorted(tables, order))
        else:
            q, k, v = parts.qkv(self, h, **tables)
            order = rank(self.score(q, k), self.prefix)
            h = take(h, order)
            qkv = (take_heads(q, order), take_heads(k, order), take_heads(v, order))
        return Carry(order, inverse(order), None), (take(x, order), h, *qkv)

    def _routed(self, tokens: Tensor, count: int) -> Tensor:
        """`count` tokens through the MLP, all others past it; in ranked order."""
        table = self.tensors.get(MAP)
        rest = tokens if table is None else mapped(tokens, table)
        if self.config.mlp_by == "attention":
            return torch.cat([self.family.parts.mlp(self, tokens[:, :count]), rest[:, count:]], 1)
        with torch.no_grad():
            chosen = rank(standout(tokens, self.prefix), self.prefix)[:, :count]
        return put(rest, chosen, self.family.parts.mlp(self, take(tokens, chosen)))

    def _go_on(self, x: Tensor, carry: Carry, tables: dict[str, Any]) -> tuple[Tensor, ...]:
        """Take over the order of the layer before, and its permuted tokens if they are still good."""
        parts, tokens = self.family.parts, carry.tokens
        if tokens is None or self._forward_pre_hooks:
            tokens = take(x, carry.order)
        carry.tokens = None
        h = parts.norm(self, tokens)
        return tokens, h, *parts.qkv(self, h, **self._sorted(tables, carry.order))

    def _sorted(self, tables: dict[str, Any], order: Tensor) -> dict[str, Any]:
        """Per-token tables, each a tensor or a tuple of them, in ranked order."""

        def take_all(table: Any) -> Any:
            if isinstance(table, tuple):
                return tuple(map(take_all, table))
            return take_positions(table, order, self.prefix)

        return {name: take_all(table) for name, table in tables.items()}

    def counts(self, tokens: int) -> tuple[int, int, int]:
        """nq, nk, and how many go through the MLP, for this many tokens."""
        queries, keys, mlp = self.config.kept_at(self.layer)
        return (
            kept_count(tokens, queries, self.prefix),
            kept_count(tokens, keys, self.prefix),
            kept_count(tokens, mlp, self.prefix),
        )

    @torch.no_grad()
    def score(self, q: Tensor, k: Tensor) -> Tensor:
        """m or its estimate from a sample, (b, n).  A ranking has no gradient."""
        if self.config.scorer == "exact":
            return score.exact(q, k)
        return score.sampled(q, k, self.prefix, self.config.sample_every)
