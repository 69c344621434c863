"""An attention module that runs as its host has it, but for what it hands to
`scaled_dot_product_attention`: that is caught, and a method says what is done with it.

Projections, norms, rotary tables, gates and the output projection are the host's.  With completion, a
map stands beside the attention of the queries that have not seen everything: y = proj(O) + [h, 1] W.
"""

import warnings
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparsight.completions.linear import Regression, mapped
from sparsight.errors import SparsightError
from sparsight.families.calls import Caught, wants_maps, with_settings
from sparsight.inplace import Change
from sparsight.methods.site import Site
from sparsight.ops.partition import others, put, put_, take


class Calls:
    """One forward pass of one module, which reads `x`: tokens (b, n, c), maps of them, or (n, c)."""

    def __init__(self, module: Any, x: Tensor, asks_maps: bool) -> None:
        self.module, self.x, self.asks_maps = module, x, asks_maps
        self.site: Site = module._sparsight
        if self.site.grid is not None:
            self.site.grid.note_maps(x)
        self.calls, self.at = 0, 0  # how many there were, and how many tokens they have had
        self.skipped = False  # something
        # Where in x tokens see everything: of these (b, k), rows so far apart, counted from there.
        self.seers: list[tuple[Tensor, int, int]] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *more: Any, **named: Any) -> Tensor:
        """In the place of `scaled_dot_product_attention`."""
        raise NotImplementedError

    def counted(self, q: Tensor) -> int:
        """Where in x the tokens of one more call begin."""
        at, self.calls = self.at, self.calls + 1
        self.at += q.shape[0] * q.shape[-2]
        return at

    def plain(self, q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> bool:
        """Whether all tokens of each picture of a call see all its others."""
        return mask is None and not causal and q.ndim == 4 and k.shape[2] == q.shape[2]

    def count_dense(self, tokens: int, masked: bool) -> None:
        """A call that is long enough and runs dense all the same."""
        if tokens >= self.site.config.min_tokens and not torch.compiler.is_compiling():
            self.site.dense["masked" if masked else "other tokens as keys"] += 1

    def as_it_is(
        self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, dropout_p: float,
        is_causal: bool, scale: float | None, enable_gqa: bool, at: int,
    ) -> Tensor:  # fmt: skip
        """The host's own call: all its tokens have seen what they would have seen."""
        tokens = q.shape[0] * q.shape[-2]
        self.seers.append((torch.arange(tokens, device=q.device)[None], 0, at))
        more = {"enable_gqa": True} if enable_gqa else {}
        return scaled_dot_product_attention(
            q, k, v, attn_mask, dropout_p, is_causal, scale=scale, **more
        )

    def check_no_maps(self) -> None:
        """SparsightError if attention maps are asked for, since a sparse layer has none."""
        if self.asks_maps:
            raise SparsightError(
                f"layer {self.site.layer} is sparse and has no attention map: call without "
                "output_attentions, or restore the model first"
            )

    def seeing(self) -> Tensor:
        """The places in x of the tokens that see everything, and of padding; (1, k)."""
        places = [
            (
                tokens + at + stride * torch.arange(tokens.shape[0], device=tokens.device)[:, None]
            ).flatten()
            for tokens, stride, at in self.seers
        ]
        return torch.cat(places)[None]

    def finished(self) -> None:
        """After the host's forward: what did not come to be is said."""
        if not self.calls and not torch.compiler.is_compiling():
            self.site.dense["no call"] += 1
            warnings.warn(
                f"layer {self.site.layer} runs dense: its attention is no longer "
                "scaled_dot_product_attention; set it to 'sdpa' again, or restore and apply anew",
                stacklevel=2,
            )


class CaughtAttention(Change):
    """Runs the host's attention with other calls; its tensors are the map, and the method's own."""

    CALLS: type[Calls]
    _sparsight: Site

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The host's result, completed; dense where that pays more, where all is kept, and under a mask.

        Raises SparsightError if attention maps are asked for, since a sparse layer has none.
        """
        x, host = self.bound(args, kwargs)
        if self.idle(x.flatten(1, -2).shape[1] if x.ndim > 2 else x.shape[0]):
            return self.dense(x, **host)
        result, run = self.attended(x, host)
        table = self.tensor("map")
        if table is None or not run.skipped:
            return result
        y = result[0] if isinstance(result, tuple) else result
        rows, seeing = x.reshape(1, -1, x.shape[-1]), run.seeing()
        whole = y.reshape(1, -1, y.shape[-1]) + mapped(rows, table)
        # Those have seen everything: nothing is missing.
        own = take(y.reshape(whole.shape), seeing)
        whole = (put if whole.requires_grad else put_)(whole, seeing, own).view(y.shape)
        return (whole, *result[1:]) if isinstance(result, tuple) else whole

    def idle(self, tokens: int) -> bool:
        """Whether nothing is left out of so many tokens, which a picture has at most."""
        return False

    def attended(self, x: Any, host: dict[str, Any]) -> tuple[Any, Calls]:
        """The host's result with other calls, and what was done for it."""
        run = self.CALLS(self, x, bool(host.get("output_attentions")) or wants_maps(self))
        form = self._sparsight.form
        if form is not None:  # which makes no call where a map is asked for
            run.check_no_maps()
        with with_settings(self, self._sparsight.settings), Caught(run, self):
            result = self.dense(x, **host) if form is None else form(self, x, **host)
        run.finished()
        return result, run

    def fit(
        self, x: Any, host: dict[str, Any], wanted: Any
    ) -> Generator[Regression, Tensor, dict[str, Tensor]]:
        """The map from what one picture's sparse queries miss: dense less sparse, on this stream."""
        found, run = self.attended(x, host)
        dense, few = (y[0] if isinstance(y, tuple) else y for y in (self.dense(x, **host), found))
        h, missing = x.reshape(1, -1, x.shape[-1]), (dense - few).reshape(1, -1, dense.shape[-1])
        rest = others(run.seeing(), missing.shape[1])
        table = yield Regression(take(h, rest).flatten(0, 1), take(missing, rest).flatten(0, 1))
        return {"map": table}
