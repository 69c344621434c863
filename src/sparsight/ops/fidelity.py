"""How far features moved: sparse against dense, one figure for each image."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def relative_error(
    features: Float[Tensor, "b n c"], dense: Float[Tensor, "b n c"]
) -> Float[Tensor, " b"]:
    """The norm of the difference over the norm of the dense features."""
    difference = torch.linalg.vector_norm((features - dense).float(), dim=(1, 2))
    return difference / torch.linalg.vector_norm(dense.float(), dim=(1, 2))


def cosine(features: Float[Tensor, "b n c"], dense: Float[Tensor, "b n c"]) -> Float[Tensor, " b"]:
    """The mean over tokens of the cosine between a token's two feature vectors."""
    return F.cosine_similarity(features.float(), dense.float(), dim=2).mean(dim=1)
