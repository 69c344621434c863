"""What the layers of a reuse group share: the ranked tokens of the layer that ranks for them."""

import threading
import weakref
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsight.errors import SparsightError

Ranked = tuple[
    tuple[Tensor | None, int], ...
]  # of each picture: (b, t), None: dense; of how many tokens


@dataclass(eq=False)
class Ranking:
    """The rankings of one thread's last forward pass."""

    ranked: Ranked | None = None
    # By layer, what they were used for: the last token (b, c) of what the follower read.
    used: dict[int, tuple[Tensor, Ranked]] = field(default_factory=dict)


class _Local(threading.local):
    """A ranking for each thread, since a model may serve several at once; gone with the thread."""

    def __init__(self, every: "weakref.WeakSet[Ranking]") -> None:
        self.ranking = Ranking()
        every.add(self.ranking)


class Pattern:
    """The rankings of a group's leader.

    A copy of a model shares nothing with it: copied and pickled empty.
    """

    def __init__(self) -> None:
        self.every: weakref.WeakSet[Ranking] = weakref.WeakSet()
        self.local = _Local(self.every)

    def __reduce__(self) -> tuple[type["Pattern"], tuple[()]]:
        return Pattern, ()

    def give(self, ranked: Ranked) -> None:
        """What the leader has found."""
        self.local.ranking.ranked = ranked

    def take(self, x: Tensor, layer: int) -> Ranked:
        """The leader's rankings for a follower that reads `x`; of what, the follower checks.

        Raises SparsightError if there are none.
        """
        last = x.flatten(1, -2)[:, -1] if x.ndim > 2 else x[-1:]
        if not torch.compiler.is_compiling() and _in_backward():
            return self._again(last, layer)
        own = self.local.ranking
        if own.ranked is None:
            raise SparsightError(
                f"layer {layer} reuses the ranking of a layer before it, which has not run: run the "
                "whole model, or apply the plan without groups"
            )
        if not torch.compiler.is_compiling():
            own.used[layer] = (last.detach().clone(), own.ranked)  # a copy: a view would keep all of x
        return own.ranked

    def _again(self, last: Tensor, layer: int) -> Ranked:
        """The same for gradient checkpointing, which runs a follower once more before its leader.

        On a GPU in another thread, so the passes of all threads are looked through.
        """
        for ranking in list(self.every):
            seen, ranked = ranking.used.get(layer, (None, None))
            if seen is not None and ranked is not None and _same(seen, last):
                return ranked
        raise SparsightError(
            f"layer {layer} is run again for a pass whose ranking another pass has replaced: with "
            "gradient checkpointing, call backward after each forward, or apply without groups"
        )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and one.shape == other.shape and torch.equal(one, other)


def _in_backward() -> bool:
    """Whether a backward pass is running here, which recomputes what was not kept."""
    return torch._C._current_graph_task_id() != -1
