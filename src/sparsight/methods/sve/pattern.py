"""What the layers of a reuse group share: the ranked tokens of the layer that ranks for them."""

import threading
import weakref
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsight.errors import SparsightError


@dataclass(eq=False)
class Ranking:
    """The ranking of one thread's last forward pass."""

    top: Tensor | None = None  # (b, t), None if the leader ran dense
    tokens: int = -1  # of how many
    # By layer, what it was used for: the last token (b, c) of what the follower read, and the ranking.
    used: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


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

    def give(self, top: Tensor | None, tokens: int) -> None:
        """What the leader has found, or that it ran dense."""
        own = self.local.ranking
        own.top, own.tokens = top, tokens

    def take(self, h: Tensor, layer: int) -> Tensor:
        """The leader's ranking for a follower that reads `h` (b, n, c).

        Raises SparsightError if there is none of these tokens.
        """
        if not torch.compiler.is_compiling() and _in_backward():
            return self._again(h, layer)
        own = self.local.ranking
        top = own.top
        if top is None or own.tokens != h.shape[1] or top.shape[0] != h.shape[0]:
            raise SparsightError(
                f"layer {layer} reuses the ranking of a layer before it, which has not ranked these "
                "tokens: run the whole model, or apply the plan without groups"
            )
        if not torch.compiler.is_compiling():
            own.used[layer] = (h[:, -1].detach().clone(), top)  # a copy: a view would keep all of h
        return top

    def _again(self, h: Tensor, layer: int) -> Tensor:
        """The same for gradient checkpointing, which runs a follower once more before its leader.

        On a GPU in another thread, so the passes of all threads are looked through.
        """
        for ranking in list(self.every):
            last, top = ranking.used.get(layer, (None, None))
            if last is not None and top is not None and _same(last, h[:, -1]):
                return top
        raise SparsightError(
            f"layer {layer} is run again for a pass whose ranking another pass has replaced: with "
            "gradient checkpointing, call backward after each forward, or apply without groups"
        )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and one.shape == other.shape and torch.equal(one, other)


def _in_backward() -> bool:
    """Whether a backward pass is running here, which recomputes what was not kept."""
    return torch._C._current_graph_task_id() != -1
