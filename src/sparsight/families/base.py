"""What a family of host models is: where things are, as data."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from sparsight.families.parts import Host, Parts
from sparsight.families.windows import Nested, Windows

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Family:
    """Where the blocks, prefix tokens and patches of one family of models are."""

    name: str
    library: str
    verified_with: str
    examples: str
    kinds: tuple[str, ...]  # classes of the model, "package.module.Class"
    requirements: Sequence[tuple[str, Callable[[Host], bool]]]  # what else must hold, in order
    blocks: Callable[[Host], "nn.Sequential | Nested"]  # the container that is indexed by layer
    dim: Callable[[Host], int]  # of a block: the width of its tokens
    prefix_tokens: Callable[[Host], int]
    patch_px: Callable[[Host], tuple[int, int]]  # a picture's height and width are multiples of this
    heads: Callable[[Host], int]  # of a block
    parts: Parts
    features: Callable[[Host, "Tensor"], "Tensor"]  # final (b, n, c) tokens of pictures
    sparse: str  # what becomes sparse, in words
    refused: str  # what is not supported and why, in words
    per_token: tuple[str, ...] = ()  # of block and attention: arguments with a row per patch token
    mask: str = "attn_mask"  # the argument of block and attention that masks it
    wants_maps: Callable[[Host], bool] = lambda attn: False  # its settings ask for attention maps
    is_global: Callable[[Host], bool] = lambda block: True  # of a block: can be sparse, has no windows
    windows: Windows | None = None  # where every block attends within windows
    # While in here, the model does no work whose result nobody uses: a fair dense baseline.
    lean: Callable[[Host], AbstractContextManager[Any]] = nullcontext

    def global_layers(self, model: Host) -> tuple[int, ...]:
        """The layers with global attention, that methods for such can work on."""
        return tuple(n for n, block in enumerate(self.blocks(model)) if self.is_global(block))

    def layers_with(self, attention: str, model: Host) -> tuple[int, ...]:
        """The layers that a method which needs "global" or "windows" can work on."""
        if attention == "global":
            return self.global_layers(model)
        return () if self.windows is None else tuple(range(len(self.blocks(model))))

    def __reduce__(self) -> tuple[Callable[[str], "Family"], tuple[str]]:
        """Copied and pickled by name: a family is one object, whatever happens to a model using it."""
        from sparsight.families import family_named

        return family_named, (self.name,)

    def first_mismatch(self, model: Host) -> tuple[int, str | None]:
        """How many requirements hold before one fails, and the text of that one (None: all hold)."""
        if not is_instance(model, *self.kinds):
            return 0, f"a {self.library} {' or '.join(kind.rpartition('.')[2] for kind in self.kinds)}"
        for number, (text, holds) in enumerate(self.requirements, 1):
            try:
                fits = holds(model)
            except (AttributeError, TypeError, IndexError):
                fits = False
            if not fits:
                return number, text
        return len(self.requirements) + 1, None

    def kinship(self, model: Host) -> int:
        """How many leading parts of its class's name a model has in common with the family's."""
        own = class_name(model).split(".")

        def shared(kind: str) -> int:
            both = zip(own, kind.split("."), strict=False)
            return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))

        return max(map(shared, self.kinds))


def is_instance(module: Any, *names: str) -> bool:
    """Whether the class of `module` is one of `names`, as `class_name` gives them; imports nothing."""
    return class_name(module) in names


def class_name(module: Any) -> str:
    """ "package.module.Class" of a module."""
    return f"{type(module).__module__}.{type(module).__qualname__}"
