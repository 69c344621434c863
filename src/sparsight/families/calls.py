"""What a module hands to `scaled_dot_product_attention`: caught on its way, whatever is around it.

Every attention module of today, of timm, transformers or a user's own, projects, normalises and
rotates in its own way and then makes the same call.  A `TorchFunctionMode` takes that call's place while
the module's own forward runs, so that nothing has to be known of the rest; compilers and exporters
follow it.
"""

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from sparsight.families.by_hand import calling_form
from sparsight.families.decomposed import Decomposed, caught_sum
from sparsight.families.parts import Host

if TYPE_CHECKING:
    from torch import nn


HEADS = ("num_heads", "num_attention_heads", "n_heads", "heads")  # what attention modules call it
COLLECTING = "transformers.utils.output_capturing"


class Attends(Protocol):
    """Something that takes what `scaled_dot_product_attention` takes."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *more: Any, **named: Any) -> Tensor:
        """(b, heads, n, d) of queries, keys and values."""


class Caught(TorchFunctionMode):
    """While in here, a run's `attend` is called in the place of `scaled_dot_product_attention`.

    A bias of rows and columns comes to it as such, not added up.
    """

    def __init__(self, run: Attends, module: "nn.Module") -> None:
        super().__init__()
        self.run = run  # the object, since compilers cannot keep a bound method
        self.module = module

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Anything else runs as it is."""
        if func is scaled_dot_product_attention:
            return with_heads(self.run.attend, self.module, *args, **(kwargs or {}))
        bias = caught_sum(func, args)
        return func(*args, **(kwargs or {})) if bias is None else bias


def heads_of(module: Host) -> int:
    """How many heads an attention module says that it has, or its config; 0 if neither does."""
    places = (module, getattr(module, "config", None))
    return next((int(getattr(m, name)) for m in places for name in HEADS if hasattr(m, name)), 0)


def with_heads(
    attend: Any, module: Host, q: Tensor, k: Tensor, v: Tensor, *more: Any, **named: Any
) -> Any:
    """`attend` with (b, heads, n, d), also where its host has made (b * heads, n, d) of them."""
    if q.ndim != 3 or not (heads := heads_of(module)) or len(q) % heads:
        return attend(q, k, v, *more, **named)
    q, k, v = (x.unflatten(0, (-1, heads)) for x in (q, k, v))
    mask = more[0] if more else named.get("attn_mask")
    if mask is not None:
        mask = mask.reshape(-1, heads, *mask.shape[1:]) if len(mask.shape) == 3 else mask
        more, named = more[1:], {**named, "attn_mask": mask}
    return attend(q, k, v, *more, **named).flatten(0, 1)


def sdpa_settings(module: Host) -> dict[str, Any]:
    """The attributes of an attention module that must be others for it to make the call at all.

    timm's modules have a flag; transformers' read a config, which they share with their model and which
    may ask for another implementation: a copy of it does not.
    """
    found: dict[str, Any] = {}
    if module.__dict__.get("fused_attn") is False:
        found["fused_attn"] = True
    config = module.__dict__.get("config")
    if getattr(config, "_attn_implementation", "sdpa") != "sdpa":
        found["config"] = copy.copy(config)
        found["config"].__dict__["_attn_implementation_internal"] = "sdpa"
    return found


@contextmanager
def with_settings(module: Host, settings: dict[str, Any]) -> Iterator[None]:
    """While in here, those attributes of `module` are others."""
    before = {name: getattr(module, name) for name in settings}
    for name, value in settings.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def wants_maps(attention: Host) -> bool:
    """Whether attention maps are asked for: by an attention module's settings, or of this very pass.

    transformers' newer models tell their modules nothing, and collect what these return.
    """
    if getattr(getattr(attention, "config", None), "output_attentions", False):
        return True
    if torch.compiler.is_compiling():
        return False
    collector = getattr(sys.modules.get(COLLECTING), "_active_collector", None)
    return collector is not None and "attentions" in (collector.get() or ())


def like_query_heads(k: Tensor, heads: int) -> Tensor:
    """Keys or values (b, heads / groups, n, d) with a head for each of the queries' heads."""
    return k if k.shape[1] == heads else k.repeat_interleave(heads // k.shape[1], 1)


def scaled_query(q: Tensor, scale: float | None) -> Tensor:
    """Queries that give with the usual scale, d^-1/2, what `q` gives with `scale`."""
    usual = q.shape[-1] ** -0.5
    return q if scale is None or abs(scale - usual) < 1e-6 * usual else q * (scale / usual)


class Inputs:
    """Keeps queries, keys and values (b, heads, n, d) of each call, and attends to nothing."""

    def __init__(self) -> None:
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, *more: Any, **named: Any
    ) -> Tensor:
        """Zeros."""
        k, v = like_query_heads(k, q.shape[1]), like_query_heads(v, q.shape[1])
        scale = named.get("scale")
        if isinstance(attn_mask, Decomposed):
            scale = q.shape[-1] ** -0.5 if scale is None else scale
            q, k = attn_mask.widened(q, k, scale)
        self.found.append((scaled_query(q, scale), k, v))
        return q.new_zeros(*q.shape[:-1], v.shape[-1])


def attention_inputs(module: "nn.Module", args: Any, kwargs: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys and values (b, heads, n, d) of each call that the dense module makes."""
    inputs = Inputs()
    forward = calling_form(module) or getattr(type(module), "HOST", type(module)).forward
    with with_settings(module, sdpa_settings(module)), Caught(inputs, module):
        forward(module, *args, **kwargs)
    return inputs.found
