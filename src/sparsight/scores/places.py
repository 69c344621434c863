"""A score that looks at nothing but places: the tokens of a lattice, whatever is in the picture.

`lattice`  minus the place of a token in the van der Corput order of two dimensions: the top quarter is
           every other token of every other row, its top quarter the like of that, and so on
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sparsight.ops.patterns import lattice_ranks
from sparsight.scores.view import View


def lattice(view: View) -> Float[Tensor, "b n"]:
    """The same for every picture of a size."""
    assert view.grid is not None  # it is needed
    ranks = lattice_ranks(*view.grid, device=view.tokens.device)
    alike = torch.cat([ranks.new_zeros(view.prefix), -ranks]).to(torch.float32)
    return alike.expand(view.tokens.shape[0], -1)
