"""Blocks that go on with fewer tokens than there are, and return all of them nevertheless.

What a block returns has every token in its own place: one that left has its last value, one that was
merged has the value of the token it went into.  So a hook, `forward_intermediates` and a dense head see
the usual shapes.  Which tokens go on travels beside it, as an attribute of the returned tensor; the next
block takes those out again, one gather of rows, far below the attention it saves.

With completion, tokens that left are replaced in what the last block returns, and in what each tapped
one does, by a map from what they were when they left: x_T = x + [n, 1] W_T.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sparsight.completions.linear import mapped, normalised
from sparsight.errors import SparsightError
from sparsight.families.calls import wants_maps
from sparsight.inplace import Change
from sparsight.methods.groups import Groups, Places, each, of_pictures
from sparsight.methods.site import Site
from sparsight.ops.partition import others, put, take, take_positions

CARRY = "_sparsight_reduced"


@dataclass(frozen=True)
class Left:
    """Tokens that have left together."""

    rows: Tensor  # (b, m), the place of each among all n tokens
    values: Tensor  # (b, m, c), what they were then
    tables: Mapping[int, Tensor]  # tapped layer -> (c + 1, c)

    def of(self, places: Places) -> "Left":
        """Of some pictures."""
        return Left(of_pictures(self.rows, places), of_pictures(self.values, places), self.tables)


@dataclass(frozen=True)
class Reduced:
    """Which tokens go on.  Prefix tokens are the first of them, always."""

    rows: Tensor  # (b, k), the place of each among all n tokens
    group: Tensor | None = None  # (b, n), if tokens were merged: which of the k each is part of
    size: Tensor | None = None  # (b, k), how many tokens each stands for
    left: tuple[Left, ...] = ()  # those that are to be completed
    beside: Tensor | None = None  # (b, n, c), what merged tokens were beside their groups' means
    notes: Mapping[int, Tensor] = field(default_factory=dict)  # of layers' attention, (b, k - prefix, f)

    def of(self, places: Places) -> "Reduced":
        """Of some pictures."""
        if places is None:
            return self
        rows, group, size, beside = (
            of_pictures(own, places) for own in (self.rows, self.group, self.size, self.beside)
        )
        notes = {layer: of_pictures(note, places) for layer, note in self.notes.items()}
        return Reduced(rows, group, size, tuple(left.of(places) for left in self.left), beside, notes)

    def put_back(self, x: Tensor, tokens: Tensor) -> Tensor:
        """All tokens (b, n, c): `tokens` (b, k, c) in their places, the others as in `x`."""
        return put(x, self.rows, tokens) if self.group is None else take(tokens, self.group)

    def completed(self, x: Tensor, layer: int) -> Tensor:
        """All tokens `x` with what the maps to `layer` make of those that left."""
        for left in self.left:
            if (table := left.tables.get(layer)) is not None:
                x = put(x, left.rows, left.values + mapped(normalised(left.values), table))
        return x


Carried = Reduced | Groups[Reduced]


class ReducingBlock(Change):
    """Runs the host's block on the tokens that go on; a method says where and how they become fewer."""

    _sparsight: Site
    carries = True  # which tokens go on, to the blocks after it

    def before(self, x: Tensor, state: Reduced, host: dict[str, Any]) -> Carried:
        """Tokens may leave before the block, as many of every picture or not: `x` (b, n, c) is all."""
        return state

    def inside(
        self, x: Tensor, tokens: Tensor, state: Reduced, host: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Reduced]:
        """The block on the tokens that go on (b, k, c): all tokens, those that go on, and which."""
        return x, self.dense(tokens, **(host | self.tables(host, state.rows))), state

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The host's result on fewer tokens; dense below `min_tokens` and where a mask is given.

        Raises SparsightError if attention maps are asked for, since there is none of all tokens, and if
        it is not told which tokens have left.
        """
        site, (x, host) = self._sparsight, self.bound(args, kwargs)
        family, (b, n, _) = site.family, x.shape
        if site.is_small(n) or host.get(family.mask) is not None or self.idle(n):
            return self.dense(x, **host)
        if host.get("output_attentions") or wants_maps(family.parts.attention(self)):
            raise SparsightError(
                f"layer {site.layer} has no attention map of all tokens: call without "
                "output_attentions, or restore the model first"
            )
        state: Carried | None = getattr(x, CARRY, None) if self.carries else None
        if state is None:
            if self.carries and site.layer != site.shared:  # the first of the plan's blocks
                raise SparsightError(
                    f"layer {site.layer} does not know which tokens have left before it: a hook that "
                    "returns a new tensor loses that (change it in place), and so does gradient "
                    "checkpointing with use_reentrant=True (choose False)"
                )
            state = Reduced(torch.arange(n, device=x.device).expand(b, n))
        return self._each(x, state, host, self._entered)

    def _entered(self, x: Tensor, state: Reduced, host: dict[str, Any]) -> Tensor:
        """The block, and before it some may leave."""
        return self._each(x, self.before(x, state, host), host, self._passed)

    def _passed(self, x: Tensor, state: Reduced, host: dict[str, Any]) -> Tensor:
        """The block on those that go on."""
        if self._sparsight.config.depends_on_picture:
            self._sparsight.note(state.rows.shape[1], len(x), x.shape[1], self.least(x.shape[1]))
        x, tokens, state = self.inside(x, take(x, state.rows), state, host)
        restored = self.restored(x, tokens, state)
        if self.carries:
            setattr(restored, CARRY, state)
        return restored

    def _each(
        self, x: Tensor, state: Carried, host: dict[str, Any],
        run: Callable[[Tensor, Reduced, dict[str, Any]], Tensor],
    ) -> Tensor:  # fmt: skip
        """`run` on all pictures, or on each group of them."""
        if isinstance(state, Reduced):
            return run(x, state, host)
        carried: list[tuple[Tensor, Reduced]] = []

        def on(places: Places, own: Reduced) -> Tensor:
            assert places is not None
            result = run(of_pictures(x, places), own, self._host_of(host, places))
            after: Carried | None = getattr(result, CARRY, None)
            if isinstance(after, Groups):
                carried.extend((places[more], part) for more, part in after.parts)
            elif after is not None:
                carried.append((places, after))
            return result

        whole = each(self, state.parts, on)
        if self.carries:
            setattr(whole, CARRY, Groups(tuple(carried)))
        return whole

    def _host_of(self, host: dict[str, Any], places: Tensor) -> dict[str, Any]:
        """What the block was given beside the tokens, for some pictures: tables may have a row each."""

        def own(table: Any) -> Any:
            if isinstance(table, tuple):
                return tuple(map(own, table))
            each_its_own = isinstance(table, Tensor) and table.ndim == 4 and len(table) > 1
            return of_pictures(table, places) if each_its_own else table

        per_token = self._sparsight.family.per_token
        return {key: own(value) if key in per_token else value for key, value in host.items()}

    def least(self, tokens: int) -> int:
        """How many of so many tokens go on in any case."""
        return self._sparsight.prefix + 1

    def restored(self, x: Tensor, tokens: Tensor, state: Reduced) -> Tensor:
        """All tokens: `tokens` (b, k, c) in their places, who has left completed."""
        return state.completed(state.put_back(x, tokens), self._sparsight.layer)

    def idle(self, tokens: int) -> bool:
        """Whether the settings let all of so many tokens go on, so that the block is the dense one."""
        return False

    def tables(self, host: dict[str, Any], rows: Tensor) -> dict[str, Any]:
        """Per-token tables (rotary embeddings), each a tensor or a tuple of them, of the tokens left."""

        def taken(table: Any) -> Any:
            if isinstance(table, tuple):
                return tuple(map(taken, table))
            return take_positions(table, rows, self._sparsight.prefix)

        per_token = self._sparsight.family.per_token
        return {k: taken(host[k]) for k in per_token if host.get(k) is not None}

    def staying(self, x: Tensor, state: Reduced, stay: Tensor) -> Reduced:
        """Only `stay` (b, k'), places among the tokens there, go on; the others may be completed."""
        found = replace(state, rows=state.rows.gather(1, stay))
        tables = {
            layer: table
            for layer in self.completed_layers()
            if (table := self.tensor(map_name(layer))) is not None
        }
        if not tables:
            return found
        rows = state.rows.gather(1, others(stay, state.rows.shape[1]))
        return replace(found, left=(*state.left, Left(rows, take(x, rows), tables)))

    def completed_layers(self) -> tuple[int, ...]:
        """The layers in whose results those who leave here are completed."""
        return ()


def map_name(layer: int) -> str:
    """The name, among the tensors of the block where tokens leave, of the map to `layer`."""
    return f"map.{layer}"


def carried_by(x: Tensor) -> list[tuple[Tensor, Reduced]]:
    """Which tokens go on beside what a block returned, by pictures (g,); nothing if it ran dense."""
    state: Carried | None = getattr(x, CARRY, None)
    if state is None:
        return []
    if isinstance(state, Reduced):
        return [(torch.arange(len(x)), state)]
    return [(places.cpu(), own) for places, own in state.parts]
