"""How relevant each token is: SPOT's token relevance module, a small network before each stage.

    r = w . gelu(W [embedding, statistics of each layer looked at] + b)

Our choices where the paper is silent: the embedding is normalised per token, and each statistic's
logarithm over the tokens of its image, so that neither the resolution nor the number of tokens left
matters.  Differences between layers, the attention's dynamics, are linear in what is read, so W has
them.  No bias in the end: it would not change a ranking.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sparsight.scores.view import View

FLOOR = 1e-3  # of even attention: what is smaller counts as this
TINY = 1e-6  # a statistic that is the same for all tokens has no spread


def described(tokens: Tensor, notes: list[Tensor]) -> Float[Tensor, "b p f"]:
    """What the network reads, from patch tokens (b, p, c) and the statistics (b, p, .) of each layer."""
    embedding = F.layer_norm(tokens, tokens.shape[-1:])
    logs = torch.cat(notes, 2).add(FLOOR).log()
    centred = logs - logs.mean(1, keepdim=True)
    even = centred / centred.square().mean(1, keepdim=True).sqrt().add(TINY)
    return torch.cat([embedding, even.to(tokens.dtype)], 2)


def relevance(
    read: Float[Tensor, "b p f"],
    weight: Float[Tensor, "hidden f"],
    bias: Float[Tensor, " hidden"],
    outer: Float[Tensor, " hidden"],
) -> Float[Tensor, "b p"]:
    """r of each token; only its order within an image matters."""
    return (F.gelu(F.linear(read, weight, bias)) @ outer).float()


def of_view(view: View) -> Float[Tensor, "b n"]:
    """r by the network (inner weight, inner bias, outer weight) of the view, 0 for prefix tokens."""
    read = described(view.tokens[:, view.prefix :], list(view.notes))
    found = relevance(read, *view.tensors.values())
    return torch.cat([found.new_zeros(found.shape[0], view.prefix), found], 1)
