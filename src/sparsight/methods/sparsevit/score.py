"""How much a window matters: its activations, without anything trained.

magnitude of a token = mean over channels of |x|
score of a window = L2 norm of the magnitudes of its tokens                 (SparseViT, Step I)
"""

from jaxtyping import Float, Int
from torch import Tensor

from sparsight.ops.windows import in_windows


def magnitude(x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n"]:
    """How strong each token is, before any norm."""
    return x.float().abs().mean(2)


def rank_windows(magnitudes: Float[Tensor, "b n"], table: Int[Tensor, "w l"]) -> Int[Tensor, "b w"]:
    """The windows of each picture, strongest first; places without a token count as zero."""
    strength = in_windows(magnitudes, table).norm(dim=2)
    return strength.argsort(dim=1, descending=True, stable=True)
