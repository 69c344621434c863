"""What a changed module knows of itself: the state that `inplace.change` puts into it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import linear

from sparsight.families import Family
from sparsight.families.grid import Grid
from sparsight.ops.partition import all_kept, kept_count


@dataclass(frozen=True)
class Noted:
    """How many of its tokens or windows each picture of a batch kept."""

    kept: tuple[int, ...]
    of: int
    least: int  # that stay of any picture

    @classmethod
    def joined(cls, parts: "Sequence[Noted | None]", order: Sequence[int]) -> "Noted | None":
        """Of groups of pictures, in the `order` of the batch; None if a group was not noted."""
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        kept = list(chain.from_iterable(part.kept for part in known))
        return cls(tuple(kept[n] for n in order), known[0].of, known[0].least)


@dataclass
class Site:
    """Where a module stands, and how it is to run.  Its tensors are buffers of the module."""

    family: Family
    prefix: int  # tokens before the patches
    config: Any  # of the method's own kind
    layer: int
    depth: int  # layers of the model
    arguments: tuple[str, ...]  # names of what the module's own forward takes
    shared: Any = None  # what modules of one group have in common
    grid: Grid | None = None  # where rows and columns of the tokens are asked for
    # Attributes that are others while the module calls `scaled_dot_product_attention`.
    settings: dict[str, Any] = field(default_factory=dict)
    # What runs an attention that does not call it, so that it does; None: its own forward.
    form: Callable[..., Any] | None = None
    projection: str = ""  # the attention's weight that reads what heads return, if a score asks for it
    # Calls that ran dense although they are long enough, by reason.
    dense: Counter[str] = field(default_factory=Counter)
    noted: Noted | None = None  # of the last call, where counts depend on the picture

    def kept(self, tokens: int, fraction: float) -> int:
        """How many of so many tokens a fraction keeps; all of them below `min_tokens`."""
        return kept_count(tokens, fraction, self.prefix, self.config.min_tokens)

    def note(self, kept: int, pictures: int, of: int, least: int) -> None:
        """That so many pictures keep `kept` of their tokens or windows each, and at least `least`."""
        if not torch.compiler.is_compiling():
            self.noted = Noted((kept,) * pictures, of, least)

    def output_weight(self, attention: Any) -> Tensor:
        """(c, heads * d), of an attention's output projection; quantised, what it stands for."""
        found: Tensor = reduce(getattr, self.projection.split("."), attention)
        if type(found) in (Tensor, Parameter) or torch.compiler.is_compiling():
            return found
        one_by_one = torch.eye(found.shape[1], dtype=found.dtype, device=found.device)
        return linear(one_by_one, found).T  # a quantised weight can do that, and perhaps nothing else

    def is_small(self, tokens: int) -> bool:
        """Whether there are too few tokens for it to pay, as far as it is known before the run."""
        return all_kept(self.config.min_tokens - 1, tokens)
