"""Scores of the tokens alone.

`standout`   || n - mean of the patch tokens' n ||^2: how far a token is from its picture's usual one
`magnitude`  mean over channels of |x|                                       (SparseViT, Step I)
`map_error`  [n, n^2, 1] w: the log squared error that the map leaves, predicted by ridge regression

n is the token x, normalised.
"""

from jaxtyping import Float
from torch import Tensor

from sparsight.completions.linear import squared
from sparsight.scores.view import View


def standout(view: View) -> Float[Tensor, "b n"]:
    """Prefix tokens do not count towards the mean."""
    normal, prefix = view.normal.float(), view.prefix
    return (normal - normal[:, prefix:].mean(1, keepdim=True)).square().sum(2)


def magnitude(view: View) -> Float[Tensor, "b n"]:
    """How strong each token is, before any norm."""
    return view.tokens.float().abs().mean(2)


def map_error(view: View) -> Float[Tensor, "b n"]:
    """Higher for tokens that the map cannot replace."""
    weight = view.tensors["error"].to(view.normal.dtype)
    return (squared(view.normal) @ weight[:-1] + weight[-1]).float()
