"""Three ways to rank tokens: an estimate of m, the average attention each token receives.

m = mean over queries and heads of softmax(Q K^T)     (SVE, Eq. 11)
`exact`    m itself, streamed: the truth, as slow as dense attention
`sampled`  m of a lattice sample of the queries: nothing to train
`linear`   m-hat = h w, the trained projector of SVE (Sec. 4.3), h being what the attention reads
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sparsight.ops.statistics import average_attention, lattice_sample


def exact(q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h n d"]) -> Float[Tensor, "b n"]:
    """m, from every query."""
    return average_attention(q, k)


def sampled(
    q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h n d"], prefix: int, every: int
) -> Float[Tensor, "b n"]:
    """m as seen by about one patch query in `every`."""
    chosen = lattice_sample(q.shape[2], prefix, every, q.device)
    return average_attention(q.index_select(2, chosen), k)


def linear(h: Float[Tensor, "b n c"], weight: Float[Tensor, " c"]) -> Float[Tensor, "b n"]:
    """m-hat up to the softmax over tokens, which does not change the ranking."""
    return (h @ weight.to(h.dtype)).to(torch.float32)
