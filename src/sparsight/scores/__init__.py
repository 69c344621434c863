"""How much a token matters: one file for each kind of score, and what each needs.

A method names its `score`; any will do whose needs the method provides.  The functions take a `View`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator

if TYPE_CHECKING:
    from torch import Tensor

    from sparsight.scores.view import View

Need = Literal[
    "tokens", "attention", "class token", "map", "projector", "notes", "class notes", "projection",
    "heads", "before", "count", "grid",
]  # fmt: skip
NEEDS: dict[Need, str] = {
    "tokens": "the tokens",
    "attention": "queries and keys",
    "class token": "a class token or a register",
    "map": "the map that completes what is skipped",
    "projector": "a projector that is trained for each layer",
    "notes": "statistics of the attention of earlier layers",
    "class notes": "the class attention of earlier layers",
    "projection": "values and the output projection",
    "heads": "what the heads return for every token",
    "before": "the tokens before and after an attention",
    "count": "the number of tokens that go on",
    "grid": "the rows and columns of the tokens",
}


@dataclass(frozen=True)
class Score:
    """What is known of a score without computing it."""

    name: str
    function: "str | Callable[[View], Tensor]"  # "module:function" of this package is loaded when used
    needs: frozenset[Need]
    # width of the tokens -> what it reads beside the View, by name, and its shape
    tensors: Callable[[int], dict[str, tuple[int, ...]]] = lambda dim: {}
    untrained: str = ""  # what to do if the plan has none of them
    no_graph: str = ""  # why it does not export, if it does not

    def __call__(self, view: "View") -> "Tensor":
        """(b, n), higher is more."""
        if not isinstance(self.function, str):
            return self.function(view)
        # A statement: compilers follow it.
        from sparsight.scores import (
            attention,
            contribution,
            diversity,
            places,
            relevance,
            tokens,
            transport,
        )

        module, _, name = self.function.partition(":")
        files = {
            "attention": attention, "contribution": contribution, "diversity": diversity,
            "places": places, "relevance": relevance, "tokens": tokens, "transport": transport,
        }  # fmt: skip
        found: Tensor = getattr(files[module], name)(view)
        return found


def _score(name: str, function: str, *needs: Need, **more: object) -> Score:
    return Score(name, function, frozenset(needs), **more)  # type: ignore[arg-type]


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        _score(
            "exact", "attention:exact", "attention",
            no_graph="it asks every pair of tokens, which would stand in a graph as one large matrix",
        ),
        _score("sampled", "attention:sampled", "attention"),
        _score(
            "linear", "attention:linear", "attention", "tokens", "projector",
            tensors=lambda dim: {"projector": (dim,)},
            untrained="score='linear' needs a trained projector for each layer that ranks: run "
            "sparsight.optimize, or use score='sampled', which needs none",
        ),
        _score("class-attention", "attention:by_class", "attention", "class token"),
        _score("vtc-cls", "attention:by_class_of_layers", "attention", "class token", "class notes"),
        _score("as-vit", "attention:by_class_and_heads", "attention", "class token", "heads"),
        _score("contribution", "contribution:exact", "attention", "projection"),
        _score("contribution-bound", "contribution:bound", "attention", "projection"),
        _score("standout", "tokens:standout", "tokens"),
        _score("magnitude", "tokens:magnitude", "tokens"),
        _score(
            "map-error", "tokens:map_error", "tokens", "map",
            tensors=lambda dim: {"error": (2 * dim + 1,)},
            untrained="score='map-error' is fitted with the map: run sparsight.optimize",
        ),
        _score("relevance", "relevance:of_view", "tokens", "notes"),
        _score(
            "diversity", "diversity:one_by_one", "tokens", "attention", "count",
            no_graph="it picks token after token, and a graph has no such loop",
        ),
        _score(
            "diversity-rounds", "diversity:in_rounds", "tokens", "attention", "count",
            no_graph="it picks round after round, each from the sum of those before",
        ),
        _score(
            "transport", "transport:from_before", "tokens", "before",
            no_graph="it compares all tokens with all, which would stand in a graph as one large matrix",
        ),
        _score("lattice", "places:lattice", "grid"),
    )
}  # fmt: skip


def known(name: str) -> str:
    """`name`, if a score is called so; ValueError else."""
    if name not in SCORES:
        raise ValueError(f"no score is called {name!r}; there are {', '.join(SCORES)}")
    return name


ScoreName = Annotated[str, AfterValidator(known)]  # of a setting; fit.py says if its method can use it
