"""Which tokens need the MLP, and what stands in for it where they do not."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def standout(x: Float[Tensor, "b n c"], prefix: int) -> Float[Tensor, "b n"]:
    """How far each token, normalised, is from the mean patch token of its image: its salience here."""
    normal = F.layer_norm(x, x.shape[-1:])
    return (normal - normal[:, prefix:].mean(1, keepdim=True)).square().sum(2).float()


def extended(x: Float[Tensor, "... c"]) -> Float[Tensor, "... e"]:
    """Normalised tokens with a one added, (..., c + 1): what the linear map reads."""
    normal = F.layer_norm(x, x.shape[-1:])
    return torch.cat([normal, torch.ones_like(x[..., :1])], -1)


def mapped(x: Float[Tensor, "b n c"], table: Float[Tensor, "e c"]) -> Float[Tensor, "b n c"]:
    """x + [norm(x), 1] W: what a block's second half is to tokens that its MLP does not see."""
    normal = F.layer_norm(x, x.shape[-1:])
    return x + torch.addmm(table[-1], normal.flatten(0, 1), table[:-1]).view(x.shape)
