"""Tokens that have little in common with one another, instead of tokens that matter by themselves.

    c_1 = the token the class token attends to most;   A[v] = cos(x_v, x_c1)
    c = argmin over the others of A[v];   A[v] += cos(x_v, x_c);   and so on

`one_by_one`  stage 1 of ToDRE (arXiv 2505.18757, version 2, max-sum), which prunes after the encoder
`in_rounds`   ours: in each of ROUNDS steps the tokens of the least A, some at once

Where the paper takes a random pivot, without a class token, ours is the token that stands out most.
"""

from jaxtyping import Float
from torch import Tensor, arange, float32

from sparsight.ops.diversity import spread
from sparsight.scores.attention import by_class
from sparsight.scores.tokens import standout
from sparsight.scores.view import View

ROUNDS = 16


def one_by_one(view: View) -> Float[Tensor, "b n"]:
    """As many steps as tokens go on, each of which waits for the one before."""
    return _in_steps_of(view, 1)


def in_rounds(view: View) -> Float[Tensor, "b n"]:
    """The same number of steps for any number of tokens."""
    return _in_steps_of(view, -(-(view.count - view.prefix) // ROUNDS))


def _in_steps_of(view: View, each: int) -> Float[Tensor, "b n"]:
    """How early each token is chosen; 0 for those that are not, and for prefix tokens."""
    prefix, count = view.prefix, view.count - view.prefix
    pivot = by_class(view) if prefix else standout(view)
    order = spread(view.tokens[:, prefix:], pivot[:, prefix:].argmax(1), count, each)
    found = view.tokens.new_zeros(view.tokens.shape[:2], dtype=float32)
    places = arange(count, 0, -1, dtype=float32, device=order.device)
    return found.scatter(1, order + prefix, places.expand(len(order), -1))
