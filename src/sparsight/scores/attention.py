"""Average attention, three ways, and the attention of the class token.

m = mean over queries and heads of softmax(Q K^T)     (SVE, Eq. 11)
`exact`     m itself, streamed: the truth, as slow as dense attention
`sampled`   m of a lattice sample of the queries: nothing to train
`linear`    m-hat = h w, the trained projector of SVE (Sec. 4.3), h being what the attention reads
`by_class`  softmax(q_cls K^T), mean over heads: EViT's criterion (Liang et al., ICLR 2022)
"""

from jaxtyping import Float
from torch import Tensor, float32

from sparsight.ops.statistics import average_attention, lattice_sample
from sparsight.scores.view import View


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
