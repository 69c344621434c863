"""What a family of host models is: where things are, as data."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sparsight.families.parts import Host, Parts
from sparsight.families.windows import Nested, Windows

if TYPE_CHECKING:
    from torch import Tensor, nn


# What a derived class has or may have without doing anything else than the class it is derived from.
HARMLESS = frozenset(
    ("__module__", "__qualname__", "__doc__", "__init__", "__annotations__", "__firstlineno__",
     "__static_attributes__", "__parameters__", "__orig_bases__", "extra_repr")
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """Where the blocks, prefix tokens and patches of one family of models are."""

    name: str
    library: str
    verified_with: str
    examples: str
    kinds: tuple[str, ...]  # classes of the model, "package.module.Class"
    requirements: Sequence[tuple[str, Callable[[Host], bool]]]  # what else must hold, in order
    blocks: Callable[
        [Host], "nn.Sequential | Nested | list[nn.Module]"
    ]  # the container that is indexed by layer
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
    is_global: Callable[[Host], bool] = lambda block: True  # of a block: can be sparse, has no windows
    # Of a block and what it is given or returns: (b, n, c), or (b, height, width, c).
    rows: Callable[[Host, "Tensor"], "Tensor"] = lambda block, x: x
    windows: Windows | None = None  # where some or all blocks attend within windows
    # While in here, the model does no work whose result nobody uses: a fair dense baseline.
    lean: Callable[[Host], AbstractContextManager[Any]] = nullcontext

    has_blocks: ClassVar[bool] = True  # it knows what is around the attention

    def global_layers(self, model: Host) -> tuple[int, ...]:
        """The layers with global attention, that methods for such can work on."""
        return tuple(n for n, block in enumerate(self.blocks(model)) if self.is_global(block))

    def reads_tokens(self, layer: int) -> bool:
        """Whether the attention of a layer reads a row for each token, and returns the like."""
        return True

    def projection(self, model: Host, layer: int) -> str:
        """The name, in the attention module, of the weight (c, heads * d) that reads what its heads
        return; "" if nothing reads that alone and as it is.
        """
        from sparsight.families.projection import projection_of

        block = self.blocks(model)[layer]
        return projection_of(self.parts, self.parts.attention(block), self.heads(block))

    def layers_with(self, attention: str, model: Host) -> tuple[int, ...]:
        """The layers that a method which needs "global" or "windows" can work on."""
        if attention == "global":
            return self.global_layers(model)
        return () if self.windows is None else self.windows.layers(model)

    def units(self, model: Host) -> tuple[tuple[int, ...], ...]:
        """All layers in what runs together: two blocks whose windows are shifted in turn, else one."""
        pairs = [] if self.windows is None else [u for s in self.windows.stages(model) for u in s]
        alone = set(range(len(self.blocks(model)))) - {layer for unit in pairs for layer in unit}
        return tuple(sorted([*pairs, *((layer,) for layer in alone)]))

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

    def kind_of(self, model: Host) -> str:
        """The name of the class among `kinds` that `model` is of, whatever was derived from it."""
        named = (name for name in classes_of(model) if name in self.kinds)
        return next(named).rpartition(".")[2]


def classes_of(module: Any) -> Iterator[str]:
    """ "package.module.Class" of a module's class and of all that it is derived from."""
    return (f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__)


def is_instance(module: Any, *names: str) -> bool:
    """Whether `module` is of one of the classes `names`, or derived from one; imports nothing."""
    return any(name in names for name in classes_of(module))


def runs_as(module: Any, *names: str) -> bool:
    """Whether `module` does what one of the classes `names` does: it is one, or overrides nothing of it.

    A derived class may bring a constructor and methods of its own, but none that the class it is derived
    from has: what runs a block from its parts would not call them.
    """
    before: list[type] = []
    for kind, name in zip(type(module).__mro__, classes_of(module), strict=True):
        if name in names:
            own = {key for derived in before for key in vars(derived)} - HARMLESS
            return not any(hasattr(kind, key) for key in own)
        before.append(kind)
    return False


def own_method(model: Any, method: str, *names: str) -> bool:
    """Whether `model`, of a class derived from one of `names`, has that class's own `method`."""
    for kind, name in zip(type(model).__mro__, classes_of(model), strict=True):
        if name in names:
            return True
        if method in vars(kind):
            return False
    return False
