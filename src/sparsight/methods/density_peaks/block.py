"""A block before which the tokens of the grid may merge into its density peaks.

    score = rho x delta        ops/merging.py; among the neighbours within the window
    centres = the top of score, as many as are kept; every other token to one of them

Prefix tokens stay what they are.
"""

import torch
from torch import Tensor

from sparsight.completions.linear import normalised
from sparsight.methods.merging import MergingBefore
from sparsight.ops.merging import Groups, assigned, density_peaks
from sparsight.ops.partition import all_kept, in_order, top


class PeaksBlock(MergingBefore):
    """A block after the merge, or the one before which it is."""

    def idle(self, tokens: int) -> bool:
        """Whether none would merge."""
        return all_kept(self._sparsight.kept(tokens, self._sparsight.config.keep), tokens)

    def merges(self) -> bool:
        """Once, before the first of the changed blocks."""
        return self._sparsight.layer == self._sparsight.config.first

    def grouped(self, tokens: Tensor, there: Tensor) -> Groups:
        """Around the density peaks; all tokens are there."""
        site, config = self._sparsight, self._sparsight.config
        n, prefix = tokens.shape[1], site.prefix
        assert site.grid is not None  # the method asks for it
        sides = site.grid.of(n - prefix, site.layer)
        normal = normalised(tokens[:, prefix:])
        peaks = density_peaks(normal, sides, config.radius, config.nearest)
        score = tokens.new_zeros(tokens.shape[:2], dtype=peaks.score.dtype)
        score[:, prefix:] = peaks.score
        rows = in_order(top(score, site.kept(n, config.keep), prefix), n)
        group = assigned(normal, peaks, rows[:, prefix:] - prefix) + prefix
        return Groups(rows, torch.cat([rows[:, :prefix], group], 1))
