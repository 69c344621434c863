"""A transformer block that drops the tokens of the lowest score between its attention and its MLP.

    score_j = mean over heads of softmax(q_cls K^T / sqrt(d))_j

The criterion of EViT (Liang et al., ICLR 2022), and what a user would try first; without EViT's extra
token made of the dropped ones, because these keep their last value here.  Any other score may stand in
its place: `vtc-cls` is the mean of this one over the last `history` layers, which note it.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsight.completions.linear import normalised
from sparsight.methods.parted import Attended, PartedBlock
from sparsight.methods.reduced import Reduced
from sparsight.ops.partition import all_kept, in_order, put, take, with_stride
from sparsight.scores import SCORES
from sparsight.scores.attention import by_class
from sparsight.scores.view import View


class PruningBlock(PartedBlock):
    """A block in or after the first stage, or one that notes something for it."""

    def idle(self, tokens: int) -> bool:
        """Whether nothing has left by the end of this block, nor is anything noted in it."""
        return all_kept(self.count(tokens), tokens) and not self.is_asked(tokens)

    def is_asked(self, tokens: int) -> bool:
        """Whether a stage to come, where some of so many tokens leave, asks for what is noted here."""
        layer, config = self._sparsight.layer, self._sparsight.config
        asking = [stage for stage in config.named_stages if layer in config.noting(stage)]
        return any(not all_kept(self.count(tokens, stage), tokens) for stage in asking)

    def count(self, tokens: int, layer: int | None = None) -> int:
        """How many tokens go on after the attention of `layer`, or of this one."""
        site = self._sparsight
        layer = site.layer if layer is None else layer
        begun = sum(stage <= layer for stage in site.config.named_stages)
        return site.kept(tokens, site.config.keep**begun)

    def inside(
        self, x: Tensor, tokens: Tensor, state: Reduced, host: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Reduced]:
        """In a stage, the top tokens go on; the others have their last value from here."""
        after, seen = self.attend(tokens, state, host)
        site, there, count = self._sparsight, tokens.shape[1], self.count(x.shape[1])
        if self.is_asked(x.shape[1]):
            with torch.no_grad():
                own = by_class(self.view(tokens, after, seen, state, count))
            state = replace(state, notes={**state.notes, site.layer: own[:, site.prefix :, None]})
        if not all_kept(count, there):
            with torch.no_grad():  # a ranking has no gradient
                score = SCORES[site.config.score](self.view(tokens, after, seen, state, count))
                kept = with_stride(score, count, site.prefix, site.config.recover)
                kept = in_order(kept, there)  # the class token stays the first, which the next asks
            x, after = put(x, state.rows, after), take(after, kept)
            own = kept[:, site.prefix :] - site.prefix
            notes = {layer: take(note, own) for layer, note in state.notes.items()}
            state = Reduced(state.rows.gather(1, kept), notes=notes)
        return x, site.family.parts.mlp(self, after), state

    def view(self, before: Tensor, after: Tensor, seen: Attended, state: Reduced, count: int) -> View:
        """What there is to see of the tokens that are there."""
        site = self._sparsight
        earlier = [layer for layer in site.config.noting(site.layer) if layer in state.notes]
        return View(
            after, normalised(after), site.prefix, lambda: (seen.q, seen.k), site.config.sample_every,
            notes=tuple(state.notes[layer] for layer in earlier), count=count,
            values=lambda: seen.v, heads=lambda: seen.out, before=lambda: before,
            projection=lambda: site.output_weight(site.family.parts.attention(self)),
        )  # fmt: skip
