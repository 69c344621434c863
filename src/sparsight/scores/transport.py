"""How much of what a layer makes of all tokens comes from each: TopV-style optimal transport.

    sources = the tokens before an attention, targets = those after it, both normalised
    importance of a source = what it supplies, after three Sinkhorn steps (ops/transport.py)

After TopV (arXiv 2503.18278), whose constants are not public.  Ours: uniform marginals, the distance
over its mean, eps = 0.1, the end on the targets' update, and of TopV's three costs the first alone.  The
second, nearness on the grid, needs a grid, which a block that tokens have left does not have; the third,
a source's distance from the middle, is constant for each source, so the first update takes it back.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sparsight.completions.linear import normalised
from sparsight.ops.transport import importance
from sparsight.scores.view import View


def from_before(view: View) -> Float[Tensor, "b n"]:
    """Among patch tokens; 0 for prefix tokens, which are kept in any case."""
    prefix = view.prefix
    found = importance(normalised(view.before())[:, prefix:], view.normal[:, prefix:])
    return torch.cat([found.new_zeros(len(found), prefix), found], 1)
