"""A transformer block for the tokens that are left; those that have left keep their last value.

    tokens = take(x, places)                  the tokens still here
    tokens = block(tokens without the least relevant of them), before a stage's attention
    x[places] = tokens                        what the block returns: all tokens, in original order

The tokens that are left, their places and what was noted of them travel beside the full-size tensor,
as an attribute of it.  The count of those left is the same for every image, so batches work.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparsight.errors import SparsightError
from sparsight.families import Family
from sparsight.methods.pruning.config import Pruning
from sparsight.methods.wrapped import WrappedBlock
from sparsight.ops.partition import kept_count, put, rank, take, take_positions

CARRY = "_sparsight_left"


@dataclass
class Carry:
    """What a layer hands to the next, beside all tokens in original order."""

    places: Tensor | None  # (b, k), where the tokens still here stand, rising; None: all are here
    tokens: Tensor | None  # (b, k, c), these tokens; None where somebody may have changed them
    notes: dict[int, Tensor]  # layer -> (b, k - prefix, f), what it noted of each patch token


class PrunedBlock(WrappedBlock):
    """Runs `original` on the tokens that are left.  A method says what is noted and who is relevant."""

    OWN: ClassVar = WrappedBlock.OWN | {"continues", "notes", "wanted"}

    config: Pruning

    def __init__(
        self, original: Any, family: Family, prefix: int, config: Pruning, layer: int,
        tensors: dict[str, Tensor],
    ) -> None:  # fmt: skip
        super().__init__(original, family, prefix, config, layer, tensors)
        stages = config.named_stages
        self.continues = layer > config.noting(stages[0])[0]
        self.notes = any(layer in config.noting(stage) for stage in stages)
        self.wanted = {n for stage in stages if stage > layer for n in config.noting(stage)}

    def note(self, q: Tensor, k: Tensor) -> Tensor:
        """What later stages should know of each patch token, (b, k - prefix, f), from (b, h, k, d)."""
        raise NotImplementedError

    def relevance(self, tokens: Tensor, notes: list[Tensor]) -> Tensor:
        """A score of each patch token (b, k - prefix), from (b, k - prefix, c) and the earlier notes."""
        raise NotImplementedError

    def forward(self, x: Tensor, *args: Any, **host: Any) -> Tensor:
        """`original(x, ...)` for the tokens left; dense for few tokens, rho = 1, or if a mask is given.

        Raises SparsightError if attention maps are asked for, since they would lack tokens, and when
        what travels beside the tokens has been lost.
        """
        host |= zip(self.arguments, args, strict=False)
        rows = x.flatten(1, -2)
        n = rows.shape[1]
        masked = host.get(self.family.mask) is not None or host.get("is_causal", False)
        last = self.config.named_stages[-1]
        if n < self.config.min_tokens or self.count(n, last) == n or masked:
            return self.original.forward(x, **host)
        if host.get("output_attentions") or self.family.wants_maps(self):
            raise SparsightError(
                f"layer {self.layer} lacks tokens and has no whole attention map: call without "
                "output_attentions, or restore the model first"
            )
        carry, tokens = self._enter(x, rows)
        if self.count(n, self.layer) < tokens.shape[1]:
            carry, tokens = self._leave(carry, tokens, self.count(n, self.layer))

        parts = self.family.parts
        h = parts.norm(self, tokens)
        q, k, v = parts.qkv(self, h, **self._gathered(host, carry.places))
        notes = {layer: note for layer, note in carry.notes.items() if layer in self.wanted}
        if self.notes:
            with torch.no_grad():  # a ranking has no gradient
                notes[self.layer] = self.note(q, k)
        out = scaled_dot_product_attention(q, k, v).transpose(1, 2)
        tokens = parts.mlp(self, parts.residual(self, tokens, parts.merge(self, out, h)))
        whole = tokens if carry.places is None else put(tokens, carry.places, rows)
        whole = whole.view(x.shape)
        # A hook may change what it is shown; gradient checkpointing may run the next layer twice.
        safe = not (self._forward_hooks or whole.requires_grad)
        setattr(whole, CARRY, Carry(carry.places, tokens if safe else None, notes))
        return whole

    def count(self, tokens: int, layer: int) -> int:
        """How many of an image's tokens are in `layer`'s attention."""
        return kept_count(tokens, self.config.retained(layer), self.prefix)

    def _enter(self, x: Tensor, rows: Tensor) -> tuple[Carry, Tensor]:
        """The tokens that are left after the layer before."""
        carry: Carry | None = getattr(x, CARRY, None)
        if carry is None:
            if self.continues:
                raise SparsightError(
                    f"layer {self.layer} does not know which tokens the layer before has left: a hook "
                    "that returns a new tensor loses that (change it in place), and so does gradient "
                    "checkpointing with use_reentrant=True (choose False)"
                )
            return Carry(None, None, {}), rows
        if carry.places is None:
            return carry, rows
        if carry.tokens is None or self._forward_pre_hooks:
            return carry, take(rows, carry.places)
        return carry, carry.tokens

    def _leave(self, carry: Carry, tokens: Tensor, count: int) -> tuple[Carry, Tensor]:
        """All but the `count` most relevant tokens leave; prefix tokens never do."""
        with torch.no_grad():
            earlier = [carry.notes[layer] for layer in self.config.noting(self.layer)]
            score = self.relevance(tokens[:, self.prefix :], earlier)
            score = torch.cat([score.new_zeros(len(score), self.prefix), score], 1)
            stay = rank(score, self.prefix)[:, :count].sort(1).values
        patches = stay[:, self.prefix :] - self.prefix
        notes = {n: take(note, patches) for n, note in carry.notes.items() if n in self.wanted}
        places = stay if carry.places is None else carry.places.gather(1, stay)
        return Carry(places, None, notes), take(tokens, stay)

    def _gathered(self, host: dict[str, Any], places: Tensor | None) -> dict[str, Any]:
        """Per-token tables, each a tensor or a tuple of them, for the tokens that are left."""

        def gather(table: Any) -> Any:
            if isinstance(table, tuple):
                return tuple(map(gather, table))
            return table if places is None else take_positions(table, places, self.prefix)

        return {
            name: gather(host[name]) for name in self.family.per_token if host.get(name) is not None
        }
