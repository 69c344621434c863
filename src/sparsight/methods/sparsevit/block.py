"""A block in which windows of small activations are skipped, in place of the dense one.

    x_w <- Block(x_w) for the windows w of highest score, and x_w as it is for all others
                                                          (ours: x_w + [n_w, 1] W with completion)

The whole block is skipped, attention and MLP.  Tokens are scored once a stage, on the input of its first
pruned block; from that, windows are ranked once for the regular and once for the shifted partition, and
later blocks take a prefix of the same ranking.  Scores and rankings travel beside the tokens, as an
attribute of the returned tensor.

The order of windows and everything else that depends on the size of the map alone is worked out once.
A host pads its map with zeros after the first norm, so places without a token are zero there, and
nothing is written back to them.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import torch
from torch import Tensor

from sparsight.completions.linear import Quantile, Regression, fit_error, mapped, normalised
from sparsight.errors import SparsightError
from sparsight.families.calls import wants_maps, with_settings
from sparsight.families.windows import Windows
from sparsight.inplace import Change
from sparsight.methods.bounds import STEPS, at_least, needed
from sparsight.methods.groups import Places, alike, each, of_pictures
from sparsight.methods.site import Site
from sparsight.methods.sparsevit.config import dropped_count
from sparsight.methods.sparsevit.layout import Layout, lay_out
from sparsight.ops.windows import rank_windows, window_rows, window_strengths
from sparsight.scores import SCORES
from sparsight.scores.view import View

CARRY = "_sparsight_windows"


@dataclass
class Carry:
    """What the first pruned block of a stage hands to the others, beside the tokens."""

    scores: Tensor  # (b, n)
    orders: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # shift -> (b, w)
    strengths: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # the same, (b, w)


class WindowBlock(Change):
    """Runs the host's block on the strongest windows alone; its tensors are the score's and the map."""

    _sparsight: Site

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The host's result on the kept windows; dense where all are kept.

        Raises SparsightError if no window would be left, if attention maps are asked for, and when
        reentrant gradient checkpointing has lost the ranking of the stage.
        """
        site, (given, host) = self._sparsight, self.bound(args, kwargs)
        x = site.family.rows(self, given)
        if x[0, ..., 0].numel() < site.config.min_tokens:
            return self._dense(given, host)
        layout = self._layout_of(x, self.windows.grid(x, host))
        carry = self.carried(given)
        groups = self.counts(layout, carry)
        if groups == [(None, len(layout.table))]:
            self._note(groups[0][1], len(x), layout)
            return self._with(self._dense(given, host), carry)
        if host.get("output_attentions") or wants_maps(site.family.parts.attention(self)):
            raise SparsightError(
                f"layer {site.layer} is sparse and has no attention map: call without "
                "output_attentions, or restore the model first"
            )
        order = self.ranked(carry, layout)[0]

        def some(places: Places, kept: int) -> Tensor:
            """Pictures in which as many windows are kept."""
            own = of_pictures(given, places)
            self._note(kept, len(own), layout)
            if kept == len(layout.table):
                return self._tokens(self._dense(own, host))
            rows = site.family.rows(self, own).flatten(1, -2)
            return self._run(rows, layout, of_pictures(order, places), kept)

        return self._with(self.windows.result(self, each(self, groups, some), x), carry)

    def _tokens(self, result: Any) -> Tensor:
        """What the host's block returns, or the first of it, as (b, n, c)."""
        found: Tensor = result if isinstance(result, Tensor) else result[0]
        return self._sparsight.family.rows(self, found).flatten(1, -2)

    def _note(self, kept: int, pictures: int, layout: Layout) -> None:
        if self._sparsight.config.depends_on_picture:
            windows = len(layout.table)
            self._sparsight.note(kept, pictures, windows, at_least(0, windows, ceil(windows / STEPS)))

    def _dense(self, x: Tensor, host: dict[str, Any]) -> Any:
        with self.windows.steady(self):
            return self.dense(x, **host)

    @staticmethod
    def _with(result: Any, carry: Carry) -> Any:
        """What a block returns, and with it what the others of the stage need to know."""
        setattr(result if isinstance(result, Tensor) else result[0], CARRY, carry)
        return result

    @property
    def windows(self) -> Windows:
        """How the host cuts its map."""
        found = self._sparsight.family.windows
        assert found is not None  # checked before the plan was applied
        return found

    @property
    def leads(self) -> bool:
        """Whether it scores for its stage."""
        return bool(self._sparsight.config.leads(self._sparsight.layer))

    def counts(self, layout: Layout, carry: Carry) -> list[tuple[Places, int]]:
        """How many windows are kept, and in which pictures.

        SparsightError if none would be; under a bound one always is.
        """
        config, layer, count = self._sparsight.config, self._sparsight.layer, len(layout.table)
        if config.bound is not None:
            bound = self.tensor("bound") if config.bound == "calibrated" else config.bound
            assert bound is not None  # checked before the plan was applied
            strengths = self.ranked(carry, layout)[1]
            return alike(needed(strengths, bound, ceil(count / STEPS)), strengths.device)
        kept = count - dropped_count(count, config.sparsity_of(layer))
        if kept == 0:
            raise SparsightError(self._too_few(count))
        return [(None, kept)]

    def carried(self, x: Tensor) -> Carry:
        """The scores of the stage: from the block before, or of these tokens."""
        carry: Carry | None = getattr(x, CARRY, None)
        if carry is None and not self.leads:
            by_fit = SCORES[self._sparsight.config.score].tensors(1)  # which the first of the stage has
            # Recomputation of a checkpoint detaches x, so the ranking would be another one.
            if by_fit or (x.is_leaf and x.requires_grad):
                raise SparsightError(
                    f"layer {self._sparsight.layer} shares the ranking of its stage and was not told: "
                    "a hook that returns a new tensor loses that (change it in place), and so does "
                    "gradient checkpointing with use_reentrant=True (choose use_reentrant=False)"
                )
        return carry or Carry(self.scored(self._sparsight.family.rows(self, x).flatten(1, -2)))

    @torch.no_grad()  # a ranking has no gradient
    def scored(self, rows: Tensor) -> Tensor:
        """The score of every token, (b, n), of which a window's is the L2 norm."""
        score = SCORES[self._sparsight.config.score]
        fitted = {name: self.tensor(name) for name in score.tensors(rows.shape[2])}
        found = score(View(rows, normalised(rows), 0, tensors=fitted))
        return found.exp().sqrt() if score.name == "map-error" else found  # it is the log of a square

    def ranked(self, carry: Carry, layout: Layout) -> tuple[Tensor, Tensor]:
        """The windows of each picture (b, w), strongest first; and how strong each window is."""
        if layout.shift not in carry.orders:
            strengths = window_strengths(carry.scores, layout.table)
            carry.strengths[layout.shift] = strengths
            carry.orders[layout.shift] = rank_windows(strengths)
        return carry.orders[layout.shift], carry.strengths[layout.shift]

    def _run(self, x: Tensor, layout: Layout, order: Tensor, count: int) -> Tensor:
        """The block on the first `count` windows of `order` (b, w), of the tokens (b, n, c).

        The others as they are, or completed.
        """
        family, (b, n, c) = self._sparsight.family, x.shape
        parts, kept, flat = family.parts, order[:, :count], x.flatten(0, 1)
        rows = window_rows(x, layout.table, kept)
        if layout.padded:  # one row more, for places without a token
            flat = torch.cat([flat, flat.new_zeros(1, c)])
        tokens = flat.index_select(0, rows).view(b, -1, c)
        h = parts.norm(self, tokens)
        if layout.padded:
            h = h * (rows < b * n).view(b, -1, 1)
        mask = None
        if layout.masks is not None and layout.kind is not None:
            mask = layout.masks.index_select(0, layout.kind.index_select(0, kept.reshape(-1)))
        with with_settings(parts.attention(self), self._sparsight.settings):
            y = self.windows.attend(self, h.view(kept.numel(), -1, c), mask).view(b, -1, c)
        tokens = parts.mlp(self, parts.residual(self, tokens, y))
        left = self._left(flat, window_rows(x, layout.table, order[:, count:]))
        return left.index_copy_(0, rows, tokens.view(-1, c))[: b * n].view(b, n, c)

    def _left(self, flat: Tensor, skipped: Tensor) -> Tensor:
        """New rows like `flat` with what becomes of those that are `skipped`; the others' are open."""
        if (table := self.tensor("map")) is None:
            return flat.clone()
        x = flat.index_select(0, skipped)
        return torch.empty_like(flat).index_copy_(0, skipped, x + mapped(normalised(x)[None], table)[0])

    def _layout_of(self, x: Tensor, grid: tuple[int, int]) -> Layout:
        """The layout of a map of `grid`, on the device of `x`; kept for the next call."""
        windows, site = self.windows, self._sparsight
        size, shift = windows.size(self), windows.shift(self, grid)
        key, kept = (grid, size, shift, x.device, x.dtype), site.shared
        if torch.compiler.is_compiling():  # it becomes constants of the graph
            known = torch.compiler.is_exporting() and kept is not None and kept[0] == key
            return kept[1] if known else lay_out(self, windows, x, grid, size, shift)
        if kept is None or kept[0] != key:  # replicas on several devices share the site
            with torch.inference_mode(False):  # training may come after inference
                site.shared = kept = (key, lay_out(self, windows, x, grid, size, shift))
        layout: Layout = kept[1]
        return layout

    @property
    def stage(self) -> int:
        """The place of this block's stage."""
        found: int = self._sparsight.config.stage_of(self._sparsight.layer)
        return found

    def _too_few(self, count: int) -> str:
        """The sentence for a map with so few windows that none would be left."""
        stage, sparsity = self.stage + 1, self._sparsight.config.sparsity_of(self._sparsight.layer)
        return (
            f"stage {stage} has {count} window{'s' * (count > 1)} in a picture of this size, and "
            f"sparsity {sparsity} would leave none: it can drop at most {count - 1} of {count}; lower "
            "sparsity there, or give larger pictures"
        )

    def fit(self, x: Any, host: dict[str, Any], wanted: Any) -> Generator[Any, Any, dict[str, Tensor]]:
        """The map from what the block adds to the tokens of skipped windows; before that, the score."""
        site, found = self._sparsight, dict[str, Tensor]()
        shaped = site.family.rows(self, x)
        rows, layout = shaped.flatten(1, -2), self._layout_of(shaped, self.windows.grid(shaped, host))
        added = self._tokens(self._dense(x, host)) - rows
        normal = normalised(rows)
        if site.config.score == "map-error" and self.leads:
            bounded = site.config.bound is not None
            size = (rows + added).square().mean((1, 2)).view(-1, 1) if bounded else 1.0
            found["error"] = yield from fit_error(normal, added, size)
            self.set_tensors(found)
        carry = self.carried(x)
        order, strengths = self.ranked(carry, layout)
        if site.config.bound == "calibrated":
            dropped = dropped_count(len(layout.table), site.config.sparsity_of(site.layer))
            found["bound"] = yield Quantile(strengths.flatten(), len(layout.table) - dropped)
            self.set_tensors(found)
        ((_, kept),) = self.counts(layout, carry)  # of one picture
        skipped = window_rows(rows, layout.table, order[:, kept:])
        skipped = skipped[skipped < rows.shape[0] * rows.shape[1]]  # not the places without a token
        read, goal = (t.flatten(0, 1).index_select(0, skipped) for t in (normal, added))
        found["map"] = yield Regression(read, goal)
        return found
