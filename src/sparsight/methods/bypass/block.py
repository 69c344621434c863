"""A block that only the tokens of the highest score take part in: an exit for one layer alone.

    x[top] = block(x[top]),   x = x + [n, 1] W or x for all others;   top = topk(score(x))

Prefix tokens always take part.
"""

from typing import Any

import torch
from torch import Tensor

from sparsight.methods.early_exit.block import ExitBlock
from sparsight.methods.reduced import Reduced
from sparsight.ops.partition import all_kept, in_order


class BypassBlock(ExitBlock):
    """Runs the host's block on some of the tokens; its tensors are the score's and the map."""

    carries = False

    def idle(self, tokens: int) -> bool:
        """Whether all take part."""
        return all_kept(self.among(tokens), tokens)

    def among(self, tokens: int) -> int:
        """How many of so many tokens take part."""
        return self._sparsight.kept(tokens, self._sparsight.config.kept_at(self._sparsight.layer))

    def before(self, x: Tensor, state: Reduced, host: dict[str, Any]) -> Reduced:
        """Those of the lowest score bypass the block."""
        with torch.no_grad():  # a ranking has no gradient
            score = self.scored(x, state, host, x.shape[1])
            stay = in_order(self.staying_of(score, self.among(x.shape[1])), x.shape[1])
        return self.staying(x, state, stay)

    def completed_layers(self) -> tuple[int, ...]:
        """This one."""
        return (self._sparsight.layer,) if self._sparsight.config.completion == "map" else ()
