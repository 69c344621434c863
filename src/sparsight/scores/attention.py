"""Average attention, three ways, and the attention of the class token, three ways.

m = mean over queries and heads of softmax(Q K^T)     (SVE, Eq. 11)
`exact`     m itself, streamed: the truth, as slow as dense attention
`sampled`   m of a lattice sample of the queries: nothing to train
`linear`    m-hat = h w, the trained projector of SVE (Sec. 4.3), h being what the attention reads
`by_class`  softmax(q_cls K^T), mean over heads: EViT's criterion (Liang et al., ICLR 2022)
`by_class_of_layers`   the mean of the same over the last layers (VTC-CLS, arXiv 2412.05819)
`by_class_and_heads`   sum over heads h of R[h, i] a[h, cls, i],
                       R[h, i] = ||o[h, i]|| / (sum over heads of ||o[., i]|| + 1e-8), o what a head
                       returns for the token before the projection (AS-ViT, arXiv 2209.13802)
"""

import torch
from jaxtyping import Float
from torch import Tensor, float32

from sparsight.ops.statistics import average_attention, lattice_sample
from sparsight.scores.view import View

TINY = 1e-8  # of the paper's code


def exact(view: View) -> Float[Tensor, "b n"]:
    """m, from every query."""
    return average_attention(*view.attention())


def sampled(view: View) -> Float[Tensor, "b n"]:
    """m as seen by about one patch query in `sample_every`."""
    q, k = view.attention()
    chosen = lattice_sample(q.shape[2], view.prefix, view.sample_every, q.device)
    return average_attention(q.index_select(2, chosen), k)


def linear(view: View) -> Float[Tensor, "b n"]:
    """m-hat up to the softmax over tokens, which does not change the ranking."""
    return (view.normal @ view.tensors["projector"].to(view.normal.dtype)).to(float32)


def by_class(view: View) -> Float[Tensor, "b n"]:
    """The attention of the first prefix token."""
    q, k = view.attention()
    return average_attention(q[:, :, :1], k)


def by_class_of_layers(view: View) -> Float[Tensor, "b n"]:
    """Of this layer and of those whose notes there are; prefix tokens as they are in this one."""
    own = by_class(view)
    earlier = [note[:, :, 0] for note in view.notes]
    mean = torch.stack([own[:, view.prefix :], *earlier]).mean(0)
    return torch.cat([own[:, : view.prefix], mean], 1)


def by_class_and_heads(view: View) -> Float[Tensor, "b n"]:
    """The class token's attention in each head, weighted by how strong that head is at the token."""
    q, k = view.attention()
    b, heads, n, _ = k.shape
    one_by_one = q[:, :, :1].flatten(0, 1)[:, None], k.flatten(0, 1)[:, None]
    attention = average_attention(*one_by_one).view(b, heads, n)
    strength = view.heads().float().norm(dim=3).transpose(1, 2)
    share = strength / (strength.sum(1, keepdim=True) + TINY)
    return (share * attention).sum(1)
