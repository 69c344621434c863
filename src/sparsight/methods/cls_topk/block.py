"""A transformer block that drops the tokens the class token attends to least.

    score_j = mean over heads of softmax(q_cls K^T / sqrt(d))_j

The criterion of EViT (Liang et al., ICLR 2022), and what a user would try first; without EViT's extra
token made of the dropped ones, because these keep their last value here.
"""

from torch import Tensor

from sparsight.methods.parted import PartedBlock
from sparsight.methods.reduced import Reduced
from sparsight.ops.partition import all_kept, in_order, put, take, top
from sparsight.scores.attention import by_class
from sparsight.scores.view import View


class PruningBlock(PartedBlock):
    """A block in or after the first stage."""

    def idle(self, tokens: int) -> bool:
        """Whether nothing has left by the end of this block."""
        return all_kept(self.count(tokens), tokens)

    def count(self, tokens: int) -> int:
        """How many tokens go on after this layer's attention."""
        config, layer = self._sparsight.config, self._sparsight.layer
        begun = sum(stage <= layer for stage in config.stages or ())
        return self._sparsight.kept(tokens, config.keep**begun)

    def after(
        self, x: Tensor, tokens: Tensor, q: Tensor, k: Tensor, state: Reduced
    ) -> tuple[Tensor, Tensor, Reduced]:
        """In a stage, the top tokens go on; the others have their last value from here."""
        there = tokens.shape[1]
        count = self.count(x.shape[1])
        if all_kept(count, there):
            return x, tokens, state
        prefix = self._sparsight.prefix
        kept = top(by_class(View(tokens, tokens, prefix, lambda: (q, k))), count, prefix)
        kept = in_order(kept, there)  # the class token stays the first, which the next stage asks
        x = put(x, state.rows, tokens)
        return x, take(tokens, kept), Reduced(state.rows.gather(1, kept))
