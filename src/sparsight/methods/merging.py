"""Blocks before which tokens merge; those that are left go on, and all are unfolded in every result.

    m_g  = mean of x_i, i in group g        a group goes on as one token, at the place of one of its own
    y_i  = y_g                              in the results of all blocks
    y_i += x_i - m_g, or [n(x_i) - n(m_g), 1] W        in the last one, completed: i beside its group

A method says which tokens become one (`grouped`).  Prefix tokens never merge.
"""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsight.completions.linear import Regression, mapped, normalised
from sparsight.methods.parted import PartedBlock
from sparsight.methods.reduced import CARRY, Reduced
from sparsight.ops.merging import Groups, means
from sparsight.ops.partition import take


class MergingBefore(PartedBlock):
    """A block in or after the first before which tokens merge; the last one's tensor is the map."""

    weighted = True  # a merged token counts in attention as often as tokens went into it

    def merges(self) -> bool:
        """Whether they do before this block."""
        raise NotImplementedError

    def grouped(self, tokens: Tensor, there: Tensor) -> Groups:
        """Which of the tokens (b, m, c) that are `there` (b, m) become one; rows of none come last."""
        raise NotImplementedError

    def inside(
        self, x: Tensor, tokens: Tensor, state: Reduced, host: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Reduced]:
        """Merge, if it is this block's turn; then norm, attention and MLP of who is left."""
        if self.merges():
            tokens, state = self.merged(tokens, state)
        return super().inside(x, tokens, state, host)

    def merged(self, tokens: Tensor, state: Reduced) -> tuple[Tensor, Reduced]:
        """Means of the groups (b, k, c), and which they are."""
        b, m, _ = tokens.shape
        size = tokens.new_ones(b, m) if state.size is None else state.size
        there = size > 0
        with torch.no_grad():  # a choice has no gradient
            rows, group = self.grouped(tokens, there)
        count = rows.shape[1]
        weight = size if self.weighted else there.to(size.dtype)
        mean, total = means(tokens, group, count, weight)
        beside = self.beside(tokens, take(mean, group))
        if state.group is not None:
            if beside is not None and state.beside is not None:
                beside = take(beside, state.group) + state.beside
            group = group.gather(1, state.group)
        found = Reduced(state.rows.gather(1, rows), group, beside=beside)
        if self.weighted:
            found = replace(found, size=total)
        elif count and bool((total == 0).any()):  # pictures differ: who is not there has no weight
            found = replace(found, size=(total > 0).to(total.dtype))
        return mean, found

    def beside(self, tokens: Tensor, mean: Tensor) -> Tensor | None:
        """What completes a token, of itself (b, m, c) and of the mean that it went into."""
        completion = self._sparsight.config.completion
        if completion == "last":
            return None
        return tokens - mean if completion == "residual" else normalised(tokens) - normalised(mean)

    @property
    def is_last(self) -> bool:
        """Of the model."""
        return self._sparsight.layer == self._sparsight.depth - 1

    def restored(self, x: Tensor, tokens: Tensor, state: Reduced) -> Tensor:
        """Unfolded; in the last block completed."""
        whole, prefix = super().restored(x, tokens, state), self._sparsight.prefix
        if not self.is_last or state.beside is None:
            return whole
        added, table = state.beside[:, prefix:], self.tensor("map")
        if table is not None:
            added = mapped(added, table)
        return torch.cat([whole[:, :prefix], whole[:, prefix:] + added], 1)

    def completed_layers(self) -> tuple[int, ...]:
        """The last block's own."""
        wants = self.is_last and self._sparsight.config.completion == "map"
        return (self._sparsight.layer,) if wants else ()

    def fit(
        self, x: Tensor, host: dict[str, Any], wanted: dict[int, Tensor]
    ) -> Generator[Regression, Tensor, dict[str, Tensor]]:
        """The map from what tokens were beside their groups to what their groups' results miss.

        `wanted` has the dense results of the layers by number.
        """
        prefix, site = self._sparsight.prefix, self._sparsight
        found = self.forward(x, **host)
        state: Reduced | None = getattr(found, CARRY, None)
        if state is None or state.beside is None:
            return {}
        missing = (wanted[site.layer] - found)[:, prefix:].flatten(0, 1)
        return {"map": (yield Regression(state.beside[:, prefix:].flatten(0, 1), missing))}
