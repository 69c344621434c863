"""How far features moved: sparse against dense, one figure for each image."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Salience is the 8th power of a token's distance from the mean of its image: docs/sve.md shows what
# other powers rank and learn.  No token counts as farther out than the 99th percentile: a few outliers
# would be all that is seen.
SALIENCE_POWER, SALIENCE_CEILING = 8, 0.99


def relative_error(
    features: Float[Tensor, "b n c"],
    dense: Float[Tensor, "b n c"],
    weights: Float[Tensor, "b n"] | None = None,
) -> Float[Tensor, " b"]:
    """The norm of the difference over the norm of the dense features, tokens weighted by `weights`."""
    return relative_square(features, dense, weights).sqrt()


def relative_square(
    features: Float[Tensor, "b n c"],
    dense: Float[Tensor, "b n c"],
    weights: Float[Tensor, "b n"] | None = None,
) -> Float[Tensor, " b"]:
    """The square of `relative_error`, which is smooth at zero."""
    moved = (features - dense).float().square().sum(2)
    size = dense.float().square().sum(2)
    if weights is not None:
        moved, size = moved * weights, size * weights
    return moved.sum(1) / size.sum(1)


def salience(
    dense: Float[Tensor, "b n c"], prefix: int, power: float = SALIENCE_POWER
) -> Float[Tensor, "b n"]:
    """How much each token stands out: a weight, of mean 1, from its distance to the mean patch token.

    Most tokens of a picture resemble one another.  An error of theirs that is the same for all hardly
    matters to what reads the features, yet makes up most of a plain error; the few tokens that differ
    carry the content.  Prefix tokens speak for the whole image: they weigh as much as the heaviest.
    """
    patches = dense[:, prefix:].float()
    distance = (patches - patches.mean(1, keepdim=True)).square().sum(2)
    ceiling = distance.quantile(SALIENCE_CEILING, dim=1, keepdim=True)
    weights = torch.full(dense.shape[:2], 1.0, dtype=torch.float32, device=dense.device)
    tiny = torch.finfo(torch.float32).tiny  # a picture whose tokens are all alike has no distances
    weights[:, prefix:] = ((distance.minimum(ceiling) + tiny) / (ceiling + tiny)) ** (power / 2)
    return weights / weights.mean(1, keepdim=True)


def cosine(features: Float[Tensor, "b n c"], dense: Float[Tensor, "b n c"]) -> Float[Tensor, " b"]:
    """The mean over tokens of the cosine between a token's two feature vectors."""
    return F.cosine_similarity(features.float(), dense.float(), dim=2).mean(dim=1)
