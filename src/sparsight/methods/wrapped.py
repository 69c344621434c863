"""A block in place of a host's block, which a host and its users cannot tell from the original."""

import inspect
from functools import cache
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from sparsight.families import Family
from sparsight.methods.base import Settings


class WrappedBlock(nn.Module):
    """Runs `original` in another way.  Children, parameters and hooks are the original's own objects.

    So state-dict keys, `.to()`, `.train()` and hooks behave as on the block itself, and giving the
    block back is all there is to restoring it.  An instance is also one of the original's class: that
    is how a host finds its blocks when it records hidden states, checkpoints gradients or spreads a
    model over devices.
    """

    OWN: ClassVar = frozenset(  # attributes that the original does not share
        ("original", "family", "prefix", "config", "layer", "tensors", "arguments")
    )

    original: nn.Module
    family: Family
    prefix: int
    config: Any  # of the method's own kind
    layer: int
    tensors: dict[str, Tensor]  # what the block needs beside the original's weights

    def __new__(cls, original: nn.Module, *settings: Any) -> Self:
        """An instance of both classes."""
        return _blank(cls, type(original))

    def __init__(
        self, original: nn.Module, family: Family, prefix: int, config: Settings, layer: int,
        tensors: dict[str, Tensor],
    ) -> None:  # fmt: skip
        # The state of an nn.Module is the original's own; `forward` is there if accelerate set it.
        self.__dict__.update({k: v for k, v in original.__dict__.items() if k != "forward"})
        self.__dict__["original"] = original  # not as a child, which would change the keys
        self.family, self.prefix, self.config, self.layer = family, prefix, config, layer
        self.tensors = tensors
        self.arguments = tuple(inspect.signature(original.forward).parameters)[1:]

    def __setattr__(self, name: str, value: Any) -> None:
        """What a host sets on its block (training mode, checkpointing) holds for the original too."""
        super().__setattr__(name, value)
        if name not in self.OWN:
            setattr(self.original, name, value)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """`.to()` and its like also move the tensors, which are no part of the state dict."""
        super()._apply(fn, recurse)
        self.tensors = {name: fn(value) for name, value in self.tensors.items()}
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled by the original's class, since the class of both has no name."""
        return _blank, type(self).__bases__, self.__dict__


def _blank(kind: Any, host: Any) -> Any:
    """A block of `kind` in place of one of the class `host`, without its state."""
    return object.__new__(_both(kind, host))


@cache
def _both(kind: Any, host: Any) -> type[nn.Module]:
    """A subclass of both classes, the wrapper's ways first."""
    return type(kind.__name__, (kind, host), {"__module__": __name__})
