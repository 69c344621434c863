"""A transformer block that drops the tokens the class token attends to least.

    score_j = mean over heads of softmax(q_cls K^T / sqrt(d))_j

The criterion of EViT (Liang et al., ICLR 2022), and what a user would try first; without EViT's extra
token made of the dropped ones, because these keep their last value here.
"""

from typing import ClassVar

from torch import Tensor

from sparsight.methods.cls_topk.config import ClsTopK
from sparsight.methods.reduced import Reduced, ReducingBlock
from sparsight.ops.partition import kept_count, put, rank, take
from sparsight.ops.statistics import average_attention


class PruningBlock(ReducingBlock):
    """A block in or after the first stage."""

    OWN: ClassVar = ReducingBlock.OWN

    config: ClsTopK

    def idle(self, tokens: int) -> bool:
        """Whether nothing has left by the end of this block."""
        return self.count(tokens) == tokens

    def count(self, tokens: int) -> int:
        """How many tokens go on after this layer's attention."""
        begun = sum(stage <= self.layer for stage in self.config.stages or ())
        return kept_count(tokens, self.config.keep**begun, self.prefix)

    def after(
        self, x: Tensor, tokens: Tensor, q: Tensor, k: Tensor, state: Reduced
    ) -> tuple[Tensor, Tensor, Reduced]:
        """In a stage, the top tokens go on; the others have their last value from here."""
        count = self.count(x.shape[1])
        if count >= tokens.shape[1]:
            return x, tokens, state
        score = average_attention(q[:, :, :1], k)
        kept = rank(score, self.prefix)[:, :count]
        x = put(x, state.rows, tokens)
        return x, take(tokens, kept), Reduced(state.rows.gather(1, kept))
