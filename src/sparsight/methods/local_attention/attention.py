"""An attention module in which patches see their own group, and what all see.

    O_g = sdpa(Q_g, [K_all, K_g], [V_all, V_g])     for every window or block g of the grid
    O_p = sdpa(Q_p, K, V)                           prefix tokens; K_all has theirs, and the lattice's

Windows: JetViT (arXiv 2605.26636) gives such to some layers, found by a search, and trains; here nothing
is trained.  Stripes: the static form of SparseSAM's order (arXiv 2605.17633, Apache-2.0 code: Z-order in
groups of four, "nosort", blocks on the diagonal and a bar of kept blocks).
"""

import torch
from torch import Tensor

from sparsight.families.calls import like_query_heads
from sparsight.methods.caught import Calls, CaughtAttention
from sparsight.ops.patterns import Pattern, grouped_attention, stripes, windows


class LocalCalls(Calls):
    """A call with all tokens of each picture is local; any other runs as the host has it."""

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        """In the place of `scaled_dot_product_attention`."""
        at, (b, heads), n = self.counted(q), q.shape[:2], q.shape[-2]
        plain = self.plain(q, k, attn_mask, is_causal)
        if not plain:
            self.count_dense(n, attn_mask is not None or is_causal)
        pattern = self.pattern(q) if plain and not self.site.is_small(n) else None
        if pattern is None:
            return self.as_it_is(q, k, v, attn_mask, dropout_p, is_causal, scale, enable_gqa, at)
        self.check_no_maps()
        self.skipped, prefix = True, self.site.prefix
        k, v = like_query_heads(k, heads), like_query_heads(v, heads)
        self.seers.append((torch.arange(prefix, device=q.device).expand(b, -1), n, at))
        return grouped_attention(q, k, v, prefix, pattern, scale, dropout_p).transpose(1, 2)

    def pattern(self, q: Tensor) -> Pattern | None:
        """Of the grid of this call's pictures; None if all would see all."""
        config, prefix, grid = self.site.config, self.site.prefix, self.site.grid
        assert grid is not None  # the method asks for it
        rows, columns = grid.of(q.shape[2] - prefix, self.site.layer)
        block = config.size**2
        if config.pattern == "windows":
            if config.size >= max(rows, columns):
                return None
            return windows(rows, columns, config.size, q.device)
        if block >= rows * columns:
            return None
        return stripes(rows, columns, block, config.keep, q.device)


class LocalAttention(CaughtAttention):
    """Runs the host's attention by places alone; its tensor is the map."""

    CALLS = LocalCalls

    def idle(self, tokens: int) -> bool:
        """Whether there are too few tokens."""
        return self._sparsight.is_small(tokens)
