"""How one block of a host model is run piece by piece, as data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

Host = Any  # a model or module of another library: its attributes are known to its family file alone


def _none(*_: Any) -> NoReturn:
    raise AssertionError("a part that no method asks of such a block")


@dataclass(frozen=True)
class Parts:
    """How to run one transformer block, or its attention, piece by piece.

    `qkv` and `merge` take the attention module first, all others the block; where all attend within
    windows nobody asks for these two.  Shapes: x, h, y (b, n,
    c); q, k, v (b, heads, n, d); out (b, n, heads, d).  What has its tokens as (b, height, width, c)
    is given them as rows all the same.  `reassemble` puts a block together again; a test demands that
    this equals the block's own forward for every family.
    """

    norm: Callable[[Host, "Tensor"], "Tensor"]  # x -> h, what the attention reads
    attention: Callable[[Host], Host]  # the block's attention module
    residual: Callable[[Host, "Tensor", "Tensor"], "Tensor"]  # x, y -> x + y, block's scale
    mlp: Callable[[Host, "Tensor"], "Tensor"]  # x -> x, the second half with its residual
    qkv: Callable[..., tuple["Tensor", "Tensor", "Tensor"]] = _none  # h, per-token tables -> q, k, v
    merge: Callable[[Host, "Tensor", "Tensor"], "Tensor"] = _none  # out, h -> y

    def changed(self, block: Host, what: str) -> Host:
        """The module of a block that a method changes: its "attention", "mlp", or the "block" itself."""
        if what == "attention":
            return self.attention(block)
        return block.mlp if what == "mlp" else block  # all libraries call it so

    def reassemble(self, block: Host, x: "Tensor", **tables: "Tensor") -> "Tensor":
        """The block's own forward, from the parts, with dense attention; x and result as it has them."""
        from torch.nn.functional import scaled_dot_product_attention

        rows, attn = x.flatten(1, -2), self.attention(block)
        h = self.norm(block, rows)
        out = scaled_dot_product_attention(*self.qkv(attn, h, **tables)).transpose(1, 2)
        return self.mlp(block, self.residual(block, rows, self.merge(attn, out, h))).view(x.shape)
