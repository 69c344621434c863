"""How much a token matters: one file for each kind of score, and what each needs.

A method names its `score`; any will do whose needs the method provides.  The functions take a `View`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from sparsight.scores.view import View

Need = Literal["tokens", "attention", "class token", "map", "notes", "grid"]
ScoreName = Literal[
    "exact", "sampled", "linear", "class-attention", "standout", "magnitude", "map-error", "relevance",
    "lattice",
]  # fmt: skip
NEEDS: dict[Need, str] = {
    "tokens": "the tokens",
    "attention": "queries and keys",
    "class token": "a class token or a register",
    "map": "the map that completes what is skipped",
    "grid": "the rows and columns of the tokens",
    "notes": "what earlier layers have noted of their attention",
}


@dataclass(frozen=True)
class Score:
    """What is known of a score without computing it."""

    name: ScoreName
    function: str  # "module:function", loaded when used
    needs: frozenset[Need]
    # width of the tokens -> what it reads beside the View, by name, and its shape
    tensors: Callable[[int], dict[str, tuple[int, ...]]] = lambda dim: {}
    untrained: str = ""  # what to do if the plan has none of them

    def __call__(self, view: "View") -> "Tensor":
        """(b, n), higher is more."""
        # A statement: compilers follow it.
        from sparsight.scores import attention, places, relevance, tokens

        module, _, name = self.function.partition(":")
        files = {"attention": attention, "relevance": relevance, "tokens": tokens, "places": places}
        found: Tensor = getattr(files[module], name)(view)
        return found


def _score(name: ScoreName, function: str, *needs: Need, **more: object) -> Score:
    return Score(name, function, frozenset(needs), **more)  # type: ignore[arg-type]


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        _score("exact", "attention:exact", "attention"),
        _score("sampled", "attention:sampled", "attention"),
        _score(
            "linear", "attention:linear", "attention", "tokens",
            tensors=lambda dim: {"projector": (dim,)},
            untrained="score='linear' needs a trained projector for each layer that ranks: run "
            "sparsight.optimize, or use score='sampled', which needs none",
        ),
        _score("class-attention", "attention:by_class", "attention", "class token"),
        _score("standout", "tokens:standout", "tokens"),
        _score("magnitude", "tokens:magnitude", "tokens"),
        _score(
            "map-error", "tokens:map_error", "tokens", "map",
            tensors=lambda dim: {"error": (2 * dim + 1,)},
            untrained="score='map-error' is fitted with the map: run sparsight.optimize",
        ),
        _score("relevance", "relevance:of_view", "tokens", "notes"),
        _score("lattice", "places:lattice", "grid"),
    )
}  # fmt: skip
