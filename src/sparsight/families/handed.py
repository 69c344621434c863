"""What people hand over in place of a model, and what to hand over instead."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from sparsight.errors import UnsupportedModelError

WANTED = "a model, a torch.nn.Module"


def check_is_model(given: Any) -> None:
    """Raise UnsupportedModelError that says what was given, and where the model is, unless it is one."""
    from torch import nn

    if isinstance(given, nn.Module):
        return
    kind = type(given).__name__
    if given is None:
        raise UnsupportedModelError(f"None was given in place of {WANTED}")
    if isinstance(given, str | PathLike):
        text = str(given) if len(str(given)) <= 80 else f"{str(given)[:80]}..."
        raise UnsupportedModelError(
            f"{text!r} is a name or path, not {WANTED}: load it first, with timm.create_model or "
            "from_pretrained (only the command line takes names)"
        )
    if isinstance(given, type):
        raise UnsupportedModelError(f"{given.__name__} is a class, not {WANTED}: make an instance")
    if isinstance(given, Mapping):
        raise UnsupportedModelError(
            f"a {kind} of {len(given)} entries was given, not {WANTED}: if it is a state dict, build "
            "the model and call its load_state_dict"
        )
    if isinstance(given, tuple | list):
        places = [place for place, part in enumerate(given) if isinstance(part, nn.Module)]
        way = f": pass its element {places[0]}, the {type(given[places[0]]).__name__}" if places else ""
        raise UnsupportedModelError(f"a {kind} of {len(given)} was given, not {WANTED}{way}")
    parts = {name: part for name, part in _attributes(given).items() if isinstance(part, nn.Module)}
    if parts:
        name = "model" if "model" in parts else next(iter(parts))
        raise UnsupportedModelError(
            f"a {kind} is not {WANTED}, but holds one: pass its .{name} ({type(parts[name]).__name__})"
        )
    raise UnsupportedModelError(f"a {kind} of {type(given).__module__} was given, not {WANTED}")


def _attributes(given: Any) -> dict[str, Any]:
    found = getattr(given, "__dict__", {})
    return dict(found) if isinstance(found, Mapping) else {}
