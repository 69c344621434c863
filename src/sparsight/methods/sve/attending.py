"""One forward pass of a sparse attention: what it does with the calls that its host makes.

A host makes one call with all tokens; where pictures are packed, one for each; where they are padded or
packed behind a mask, one with a mask that is split into its pictures here.  Each picture is ranked and
attends by itself.  Any other mask, and what is too short to pay, runs as the host has it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparsight.errors import SparsightError
from sparsight.families.calls import like_query_heads, scaled_query
from sparsight.families.decomposed import Decomposed
from sparsight.methods.caught import Calls
from sparsight.ops.attention import sparse_attention
from sparsight.ops.segments import Segment, segments_of
from sparsight.scores import SCORES


class Attending(Calls):
    """Of one module, whose forward reads `x`: tokens (b, n, c), maps of them, or packed (n, c)."""

    def __init__(self, module: Any, x: Tensor, asks_maps: bool) -> None:
        super().__init__(module, x, asks_maps)
        self.ranked: list[tuple[Tensor | None, int]] = []  # of each picture, and of how many tokens
        self.led = self.site.shared.take(x, self.site.layer) if module.follows else ()

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        """In the place of `scaled_dot_product_attention`."""
        at, (b, heads), n = self.counted(q), q.shape[:2], q.shape[-2]
        bias = attn_mask if isinstance(attn_mask, Decomposed) else None
        if bias is None and attn_mask is not None and attn_mask.shape == (b, k.shape[-2]) != (n, n):
            attn_mask = attn_mask[:, None, None].bool()  # of the keys, as flash attention takes it
        parts = self.pictures(q, k, attn_mask if bias is None else None, is_causal)
        counts = [self.module.counts(part.stop - part.start) for part in parts]
        whole = zip(parts, counts, strict=True)
        if not any(self.module.pays(part.stop - part.start, kept) for part, kept in whole):
            self.ranked += [(None, part.stop - part.start) for part in parts]
            return self.as_it_is(q, k, v, attn_mask, dropout_p, is_causal, scale, enable_gqa, at)
        self.check_no_maps()
        k, v = like_query_heads(k, heads), like_query_heads(v, heads)
        if attn_mask is None or bias is not None:
            return self.attended(q, k, v, at, n, counts[0], dropout_p, scale, bias).transpose(1, 2)
        out = q.new_zeros(b, n, heads, v.shape[3])  # where a token sees nothing
        for (row, start, stop, last), kept in zip(parts, counts, strict=True):
            rows = slice(None) if row is None else slice(row, row + 1)
            queries, own = q[rows, :, start:last], slice(start, stop)
            begin = at + (row or 0) * n + start
            out[rows, start:last] = self.attended(
                queries, k[rows, :, own], v[rows, :, own], begin, n, kept, dropout_p, scale
            )
        return out.transpose(1, 2)

    def pictures(self, q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> tuple[Segment, ...]:
        """The pictures of one call; none if not all tokens of each see all its others."""
        n = q.shape[-2]
        if self.plain(q, k, mask, causal):
            return (Segment(None, 0, n, n),)
        if mask is None or causal or q.ndim != 4 or k.shape[2] != n or torch.compiler.is_compiling():
            found = None
        else:
            found = segments_of(mask, len(q), n)
        if found is None:
            self.count_dense(n, mask is not None or causal)
        return found or ()

    def attended(
        self, q: Tensor, k: Tensor, v: Tensor, at: int, stride: int, counts: tuple[int, int],
        dropout: float, scale: float | None, bias: Decomposed | None = None,
    ) -> Tensor:  # fmt: skip
        """Of pictures with the tokens of `k`, beginning at the place `at` of x; (b, n, heads, d).

        Queries beyond those tokens are padding; none are where there is a bias.
        """
        b, _, n, _ = k.shape
        if q.shape[2] > n:
            padding = torch.arange(n, q.shape[2], device=q.device).expand(b, -1)
            self.seers.append((padding, stride, at))
        if not self.module.pays(n, counts):
            self.ranked.append((None, n))
            self.seers.append((torch.arange(n, device=q.device).expand(b, -1), stride, at))
            return scaled_dot_product_attention(q, k, v, None, dropout, scale=scale).transpose(1, 2)
        queries, keys = counts
        ranked = self.ranking(q[:, :, :n], k, v, at, stride, counts, scale, bias)
        self.ranked.append((ranked, n))
        self.seers.append((ranked[:, :queries], stride, at))
        self.skipped = True
        added = None if bias is None else bias.between
        return sparse_attention(q, k, v, ranked, queries, keys, scale, dropout, added)

    def ranking(
        self, q: Tensor, k: Tensor, v: Tensor, at: int, stride: int, counts: tuple[int, int],
        scale: float | None, bias: Decomposed | None,
    ) -> Tensor:  # fmt: skip
        """The tokens that are kept for anything, highest score first; (b, max(nq, nk))."""
        b, _, n, _ = k.shape
        if self.module.follows:
            place = len(self.ranked)
            found, tokens = self.led[place] if place < len(self.led) else (None, n)
            if found is None or tokens != n or found.shape[0] != b:
                raise SparsightError(
                    f"layer {self.site.layer} reuses the ranking of a layer before it, which has not "
                    "ranked these tokens: run the whole model, or apply the plan without groups"
                )
            return found
        h = q[:, 0]  # (b, n, d): which score reads no tokens takes their number from it alone
        if "tokens" in SCORES[self.site.config.score].needs:
            rows = self.x.reshape(-1, self.x.shape[-1])
            if stride == n:
                h = rows[at : at + b * n].view(b, n, -1)
            else:
                h = torch.stack([rows[at + row * stride :][:n] for row in range(b)])
        if bias is not None:
            scale = q.shape[-1] ** -0.5 if scale is None else scale
            q, k = bias.widened(q, k, scale)
        ranked: Tensor = self.module.ranked(h, scaled_query(q, scale), k, v, counts)
        return ranked

    def finished(self) -> None:
        """What a group is to know, too."""
        if self.site.shared is not None and not self.module.follows:
            self.site.shared.give(tuple(self.ranked))
        super().finished()
