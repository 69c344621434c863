"""A block before which mutual pairs may merge.

    b(i) = argmax over j != i of cos(x_i, x_j);   i and j merge if b(i) = j and b(j) = i

How many do depends on the picture.  Those of a batch are as long as the longest: rows that stand for
nothing follow, and no token sees them.
"""

import torch
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.methods.merging import MergingBefore
from sparsight.ops.merging import Groups, mutual_pairs


class PairsBlock(MergingBefore):
    """A block in or after the first of the layers that are named."""

    weighted = False

    def merges(self) -> bool:
        """Before each layer that is named."""
        return self._sparsight.layer in self._sparsight.config.named_layers

    def grouped(self, tokens: Tensor, there: Tensor) -> Groups:
        """The first of a pair goes on, and who has none."""
        prefix = self._sparsight.prefix
        if tokens.is_meta:
            raise SparsightError("how many pairs merge depends on the picture, and so does the work")
        pair = mutual_pairs(tokens[:, prefix:], there[:, prefix:]) + prefix
        places = torch.arange(tokens.shape[1], device=tokens.device)
        into = torch.cat([places[:prefix].expand(tokens.shape[0], -1), pair.minimum(places[prefix:])], 1)
        goes_on = (into == places) & there
        number = goes_on.cumsum(1) - 1
        count = int(goes_on.sum(1).max())
        rows = places.expand_as(into).masked_fill(~goes_on, tokens.shape[1]).sort(1).values[:, :count]
        rows = rows.masked_fill(rows == tokens.shape[1], prefix)  # of nothing: some patch's place
        return Groups(rows, number.gather(1, into).clamp(0, count - 1))
