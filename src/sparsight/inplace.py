"""Change a module where it stands: its class becomes a subclass of its own class.

    module.__class__ = both(Kind, type(module));  module.__dict__[STATE] = how it is to run

The object stays the same, and with it hooks, parents, parameters, keys, devices and compile caches, as
in `torch.nn.utils.parametrize` and `fully_shard`.  Tensors that a change brings are buffers of the
module, so that moves, casts and replicas take them along; they are in no state dict.  Undoing it drops
the state and gives the class back.  As `forward` is the host's wherever there is no state, whatever
still holds the bound method (a hook, a wrapper, a subclass made of ours) is dense again too.
"""

import inspect
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from sparsight.errors import PlanError

STATE = "_sparsight"  # where a changed module keeps its state
BUFFER = "_sparsight_"  # how the names of its tensors begin

if TYPE_CHECKING:
    Base = nn.Module
else:
    Base = object


class Change(Base):
    """A kind of change; its instances are of the host's class too, and have the state `_sparsight`."""

    HOST: type[nn.Module]  # the host's own class, whose forward is the dense one
    _sparsight: Any  # the state; a kind says of which type

    def dense(self, *args: Any, **kwargs: Any) -> Any:
        """What the module was before."""
        return self.HOST.forward(self, *args, **kwargs)

    def tensor(self, name: str) -> Tensor | None:
        """One of the tensors that the change brought."""
        return self._buffers.get(buffer_name(name))

    def set_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Other values for tensors it has, cast and moved to where those are."""
        for name, value in tensors.items():
            before = self.get_buffer(buffer_name(name))
            self._buffers[buffer_name(name)] = value.to(before.device, before.dtype)

    def bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """What `forward` was called with: its first argument, and the others by their names."""
        names = self._sparsight.arguments
        given = dict(zip(names, args, strict=False)) | kwargs
        return given.pop(names[0]), given


PAIRS: dict[tuple[Any, Any], type[nn.Module]] = {}


def both(kind: type[Change], host: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a kind of change and a host's class: one for each pair."""
    if (kind, host) not in PAIRS:
        PAIRS[kind, host] = _made(kind, host)
    return PAIRS[kind, host]


def _made(kind: Any, host: Any) -> type[nn.Module]:
    own = getattr(host, "HOST", host)  # a class that others made of ours stands for the host in it

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if STATE in self.__dict__:
            return kind.forward(self, *args, **kwargs)
        return own.forward(self, *args, **kwargs)

    forward.__signature__ = inspect.signature(own.forward)  # type: ignore[attr-defined]  # hosts read it

    def reduced(self: Any, protocol: Any) -> Any:
        """Copied and pickled by the two classes, since the class of both has no name in a module."""
        made = super(pair, self).__reduce_ex__(protocol)
        return (_blank, (kind, host), *made[2:]) if type(self) is pair else made

    body = {
        "HOST": own, "BEFORE": host, "forward": forward, "__reduce_ex__": reduced,
        "__module__": __name__,
    }  # fmt: skip
    bases = (host,) if issubclass(host, kind) else (kind, host)  # theirs may be made of this very kind
    pair: type[nn.Module] = type(kind.__name__, bases, body)
    return pair


def _blank(kind: type[Change], host: type[nn.Module]) -> nn.Module:
    return cast("nn.Module", object.__new__(both(kind, host)))


def buffer_name(name: str) -> str:
    """Of a tensor that a change brings; names of buffers have no dots."""
    return BUFFER + name.replace(".", "_")


def argument_names(module: nn.Module) -> tuple[str, ...]:
    """Of the module's own forward, without `self`."""
    return tuple(inspect.signature(getattr(type(module), "HOST", type(module)).forward).parameters)[1:]


def change(module: nn.Module, kind: type[Change], state: object, tensors: Mapping[str, Tensor]) -> None:
    """Change `module`.  See `check_changeable` for what must hold."""
    _become(module, both(kind, type(module)))
    module.__dict__[STATE] = state
    for name, value in tensors.items():
        module.register_buffer(buffer_name(name), value, persistent=False)


def unchange(module: nn.Module) -> None:
    """Undo `change`."""
    module.__dict__.pop(STATE, None)
    for name in [name for name in module._buffers if name.startswith(BUFFER)]:
        del module._buffers[name]
        module._non_persistent_buffers_set.discard(name)
    # Where others made a class of ours, it stays, and its forward is the host's now.
    if "BEFORE" in type(module).__dict__:
        _become(module, type(module).__dict__["BEFORE"])


def is_changed(module: nn.Module) -> bool:
    """Whether it has a change of ours now."""
    return isinstance(module, Change) and STATE in module.__dict__


def check_changeable(module: nn.Module, what: str) -> None:
    """Raise PlanError if `module`, called `what`, has a forward that is not its class's."""
    if type(module).__name__ == "OptimizedModule":
        raise PlanError(f"{what} is compiled: apply the plan first, then compile")
    for name in ("forward", "_old_forward"):  # the second: where accelerate keeps what it hooked
        found = module.__dict__.get(name)
        if found is None or (name == "forward" and "_hf_hook" in module.__dict__):
            continue  # accelerate's own forward, which calls `_old_forward`
        if not _is_own(found, module):
            raise PlanError(
                f"{what} has a forward of its own, set on the module, which a sparse layer would not "
                "run: take it off, or leave this layer out"
            )


def _is_own(method: Any, module: nn.Module) -> bool:
    """Whether it is the forward of the module's class, bound to it."""
    return (
        isinstance(method, types.MethodType)
        and method.__self__ is module
        and method.__func__ in (c.__dict__.get("forward") for c in type(module).__mro__)
    )


def _become(module: nn.Module, kind: type[nn.Module]) -> None:
    """Change the class, and bind anew what accelerate keeps of the forward of the class before."""
    kept = [name for name in ("_old_forward", "forward") if _is_own(module.__dict__.get(name), module)]
    module.__class__ = kind
    for name in kept:
        module.__dict__[name] = types.MethodType(kind.forward, module)
